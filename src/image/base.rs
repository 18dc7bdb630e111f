//! FROM an image that no Dockerfile here makes: local, else from a registry, else bootstrapped.

use super::build::Builder;
use super::order::Definition;
use super::{bootstrap, config, registry, unpack};
use crate::engine::{Image, space};
use crate::error::{Error, Result};
use oci_spec::image::Config;
use std::collections::BTreeMap;
use std::time::Instant;

impl Builder {
    /// The image.
    pub(super) async fn resolve(&self, definition: &Definition, name: &str) -> Result<Image> {
        if name == "scratch" {
            return Ok(Image::new(config::new(), Vec::new()));
        }
        let say = |line: &str| (self.listener)(&definition.title, line);
        if let Some(elsewhere) = self.options.elsewhere.get(name) {
            let image = self.images.image(elsewhere).await?;
            return image.ok_or_else(|| Error::new(format!("image {elsewhere} has just been removed")));
        }
        if !self.options.pull
            && let Some(image) = self.images.image(name).await?
        {
            return Ok(image);
        }
        let mut labels = BTreeMap::from([("oardocker.base".to_owned(), "true".to_owned())]);
        let image = match registry::pull(self.images.as_ref(), name, &self.scratch, &self.cancel).await {
            Ok(image) => {
                say(&format!("Pulled {name}"));
                image
            }
            Err(why) if self.cancel.is_cancelled() => return Err(why),
            Err(why) => match bootstrap::suite(name) {
                Some(suite) => {
                    say(&format!("No registry gives {name} ({why})"));
                    self.bootstrap(definition, suite, &mut labels).await?
                }
                None => return Err(why.hint(format!("build or load {name} first, or correct the FROM line"))),
            },
        };
        self.images.put_image(name, &image, &labels).await?;
        Ok(image)
    }

    async fn bootstrap(
        &self,
        definition: &Definition,
        suite: &str,
        labels: &mut BTreeMap<String, String>,
    ) -> Result<Image> {
        let file = self.scratch_file()?;
        let (say, begun) = (|line: &str| (self.listener)(&definition.title, line), Instant::now());
        let made = bootstrap::bootstrap(suite, &file, &say, &self.cancel).await;
        let layer = made.map_err(|e| space::explain(e, &self.scratch))?;
        let kept = async {
            self.images.put_layer(&layer, &file).await?;
            unpack::unpack(self.images.as_ref(), &layer, &file, None).await
        }
        .await;
        kept.map_err(|e| space::explain(e, &self.scratch))?;
        say(&format!("Bootstrapped debian:{suite} in {:.1} s", begun.elapsed().as_secs_f64()));
        labels.insert("oardocker.bootstrapped".into(), bootstrap::mirror(suite));
        let mut config = config::new();
        let mut runtime = Config::default();
        runtime.set_env(Some(vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()]));
        runtime.set_cmd(Some(vec!["bash".to_owned()]));
        config.set_config(Some(runtime));
        Ok(Image::new(config, vec![layer]))
    }
}
