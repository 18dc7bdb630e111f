//! `oardocker build`: the images of the environment.

use super::{Context, stop};
use crate::cli::given::{self, Secret};
use crate::cli::ui;
use crate::cli::values::off;
use crate::cluster::{elsewhere, images, preflight};
use crate::error::{Error, Result};
use crate::image::build::Options;
use crate::image::check;
use crate::image::report::short;
use crate::workdir::Workdir;
use clap::ArgAction::SetFalse;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Build base images
///
/// Builds one image per folder of .oardocker/images. Steps whose inputs did not change are taken from the cache; images that do
/// not depend on each other are built at the same time. A running cluster is stopped first.
#[derive(Debug, Clone, PartialEq, clap::Args, Serialize)]
#[command(after_help = "Examples:
  oardocker build
      build all images
  oardocker build --no-cache
      from scratch
  oardocker build --check
      look for mistakes in the Dockerfiles, and build nothing
  SOURCE_DATE_EPOCH=1700000000 oardocker build
      the same digests each time: nothing in the images is younger than that")]
pub struct Params {
    /// Remove the containers of failed steps too; always done.
    #[arg(long)]
    force_rm: bool,
    /// Run every step again.
    #[arg(long)]
    no_cache: bool,
    /// Look for newer base images.
    #[arg(long)]
    pull: bool,
    /// Show the images only, not the output of the steps.
    #[arg(short, long)]
    quiet: bool,
    /// Remove the containers of steps; always done.
    #[arg(id = "rm-on", long = "rm", overrides_with = "rm")]
    #[serde(skip)]
    _rm_on: bool,
    /// Accepted for old scripts.
    #[arg(long = "no-rm", action = SetFalse, overrides_with = "rm-on")]
    rm: bool,
    /// Build images that are already there; done without it too.
    #[arg(id = "rebuild-on", long = "rebuild", overrides_with = "rebuild")]
    #[serde(skip)]
    _rebuild_on: bool,
    /// Leave images as they are that are already there.
    #[arg(long = "no-rebuild", action = SetFalse, overrides_with = "rebuild-on")]
    rebuild: bool,
    /// Look for mistakes in the Dockerfiles, and build nothing.
    #[arg(long)]
    #[serde(skip_serializing_if = "off")]
    check: bool,
    /// A value for an ARG; NAME alone takes it from the variable of that name.
    #[arg(long = "build-arg", value_name = "NAME=VALUE", value_parser = given::argument)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    build_args: Vec<(String, String)>,
    /// A file or a variable for RUN --mount=type=secret; images do not keep it.
    #[arg(long = "secret", value_name = "id=ID,src=FILE", value_parser = given::secret)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    secrets: Vec<Secret>,
    /// The ssh agent for RUN --mount=type=ssh: `default`, or ID=SOCKET.
    #[arg(long = "ssh", value_name = "ID", value_parser = given::agent)]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    agents: Vec<(String, PathBuf)>,
    /// Allow what reaches beyond a step: `network.host` for RUN --network=host.
    #[arg(long, value_name = "WHAT", value_parser = ["network.host"])]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow: Vec<String>,
    /// What an archive or a download may have at most, in bytes, as in 500m [default: 64g].
    #[arg(long, value_name = "SIZE", value_parser = given::size)]
    #[serde(skip_serializing_if = "Option::is_none")]
    unpack_limit: Option<u64>,
}

impl Params {
    fn build_args(&self) -> BTreeMap<String, String> {
        self.build_args.iter().cloned().collect()
    }

    fn options(&self, workdir: &Workdir) -> Result<Options> {
        let secrets = self.secrets.iter().map(|secret| Ok((secret.id.clone(), secret.read()?)));
        Ok(Options {
            no_cache: self.no_cache,
            pull: self.pull,
            keep: !self.rebuild,
            args: BTreeMap::from([("OARDOCKER_ENV_ID".to_owned(), workdir.env_id.clone())]),
            elsewhere: BTreeMap::new(),
            epoch: given::epoch()?,
            unpack_limit: self.unpack_limit,
            named: self.build_args.iter().map(|(name, _)| name.clone()).collect(),
            host_network: self.allow.iter().any(|what| what == "network.host"),
            secrets: secrets.collect::<Result<_>>()?,
            agents: self.agents.iter().cloned().collect(),
        })
    }
}

pub(super) async fn run(context: &mut Context, params: Params) -> Result<()> {
    if params.check {
        return look(context, &params.build_args());
    }
    let workdir = context.locked_workdir().await?;
    let options = params.options(&workdir)?;
    if options.host_network && context.machine.is_rootless() {
        return Err(Error::new("without root no step can be in the network of the host").hint("leave --allow out"));
    }
    let engine = context.engine().await?;
    preflight::build(engine.as_ref(), &workdir, &context.files(&workdir))?
        .iter()
        .for_each(|line| context.ui.note(line));
    context.end_steps(&workdir).await?;
    let mut builder = context.builder(&workdir, options, params.quiet).await?;
    // Whatever fails from here on, the files that the builder has made go again.
    let outcome = match images::definitions(&workdir, &builder.scratch, &params.build_args()) {
        Ok(definitions) => match elsewhere::find(builder.images.as_ref(), &context.machine, &definitions).await {
            Ok((names, lines)) => {
                lines.iter().for_each(|line| context.ui.line(line));
                builder.options.elsewhere = names;
                images::build(&builder, engine.as_ref(), &workdir, &definitions).await.map(|built| (definitions, built))
            }
            Err(e) => Err(e),
        },
        Err(e) => Err(e),
    };
    context.ui.progress_end();
    let ended = context.end_steps(&workdir).await;
    let (definitions, built) = outcome?;
    // Not before there is something to take its place.
    context.still_wanted()?;
    stop::quietly(context, &workdir).await?;
    for (definition, (_, id)) in definitions.iter().zip(built) {
        let saved = context.ui.paint_out(ui::GREEN, "Saved");
        context.ui.line(&format!("Image {} ({}) --> {saved}", definition.known_as[0], short(&id)));
    }
    ended
}

/// Says what is found in the Dockerfiles.
fn look(context: &Context, given: &BTreeMap<String, String>) -> Result<()> {
    let workdir = context.workdir()?;
    let mut args = workdir.manifest.build_args.clone();
    args.insert("OARDOCKER_ENV_ID".to_owned(), workdir.env_id.clone());
    args.extend(given.clone());
    let (mut errors, mut warnings, mut strict) = (0, 0, false);
    for role in workdir.roles()? {
        let folder = workdir.context(&role)?;
        let report = check::check(&folder, &args)?;
        let file = folder.path().join("Dockerfile");
        for finding in &report.findings {
            let rule =
                finding.rule.map_or_else(|| context.ui.paint_out(ui::RED, "error"), |rule| format!("warning {rule}"));
            let (line, column) = finding.place;
            context.ui.line(&format!("{}:{line}:{column}: {rule}: {}", file.display(), finding.what));
            context.ui.line(&format!("    {}", finding.text));
            *if finding.rule.is_none() { &mut errors } else { &mut warnings } += 1;
            strict |= report.strict;
        }
    }
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let summary = format!("{}, {}", count(errors, "error"), count(warnings, "warning"));
    if errors > 0 || (strict && warnings > 0) {
        return Err(Error::new(format!("the Dockerfiles have {summary}")));
    }
    context.ui.line(&format!("The Dockerfiles have {summary}"));
    Ok(())
}
