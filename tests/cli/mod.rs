//! The command line against what oar-docker 1.6.5 was recorded to do, and the texts of usage errors.

mod completion;

use crate::support::{BINARY, fixture, texts};
use clap::{Arg, ArgAction};
use oardocker::cli::parse::{self, Env, Line, Parsed, Parser};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// A folder with the entries that the recorded cases name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("proj/sub")).unwrap();
    for name in ["sp ace", "dépôt", "-dash"] {
        fs::create_dir(path(name)).unwrap();
    }
    fs::write(path("file.txt"), "").unwrap();
    nix::unistd::mkfifo(&path("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    for (target, name) in [("proj", "link"), ("proj/sub", "deep"), ("file.txt", "filelink"), ("nowhere", "dangling")] {
        symlink(target, path(name)).unwrap();
    }
    dir
}

fn call(dir: &Path, args: &[String], env: &[(String, String)], stdin: &str) -> Output {
    let mut command = Command::new(BINARY);
    for (name, _) in std::env::vars_os().filter(|(n, _)| n.to_string_lossy().starts_with("OARDOCKER")) {
        command.env_remove(name);
    }
    let mut child = command
        .args(args)
        .envs(env.iter().cloned())
        .env("OARDOCKER_USAGE_ERRORS", "json")
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), stdin.as_bytes());
    child.wait_with_output().unwrap()
}

/// What a call did, in the form of the recorded expectations.
fn outcome(out: &Output) -> Value {
    let (stdout, stderr) = texts(out);
    let code = out.status.code().unwrap();
    if code != 0 {
        let error: Value = serde_json::from_str(stderr.lines().last().unwrap_or_default())
            .unwrap_or_else(|_| panic!("not one JSON object: {stderr}"));
        return json!({"ok": false, "exit": code, "kind": error["kind"], "command": error["command"]});
    }
    if let Some(line) = stdout.strip_prefix("Usage: oardocker ") {
        let word = line.split_whitespace().next().unwrap();
        let page = if word == "[OPTIONS]" { "oardocker" } else { word };
        return json!({"ok": true, "exit": 0, "help": page});
    }
    if stdout.starts_with("oardocker, version") {
        return json!({"ok": true, "exit": 0, "version": true});
    }
    let mut plan: Value = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("not JSON: {stdout}"));
    plan["ok"] = json!(true);
    plan
}

/// What we mean to answer where we do better than the original; None: what was recorded holds.
///
/// | tag | why | ours |
/// |---|---|---|
/// | bare-error | the original loses the command | names it |
/// | late-error, range | values that cannot work | refused at once |
/// | unknown-host | a host that no cluster has | refused at once |
/// | workdir-loose | '' or a fifo as a directory | refused |
/// | int-syntax | Python's numbers | plain decimal only |
/// | env-quirk | variables for help and version | not read |
/// | exec-dashdash | the dashes reach the shell | dropped |
/// | prompt-early | asks before it knows the line | parses first |
/// | docker-host-refused | connects before it parses | does not |
/// | (by id) | `logs HOSTNAME`, which its README promised | hosts are taken |
/// | (by id) | `init -e trixie` | we have it |
fn intended(tags: &[&str], case: &Value, got: &Value) -> Option<Value> {
    let recorded = &case["expect"];
    if ["readme-012", "readme-013", "choice-023"].iter().any(|id| case["id"] == *id) {
        return Some(got.clone()).filter(|g| g["ok"] == true);
    }
    if case["id"] == "intersperse-060" {
        return Some(json!({"ok": false, "exit": 2, "kind": "no_such_option", "command": null}));
    }
    let bad_value = |command: &Value| json!({"ok": false, "exit": 2, "kind": "bad_value", "command": command});
    let refused_command = || got["command"].clone();
    let has = |tag: &str| tags.contains(&tag);
    if has("bare-error") {
        let mut expected = recorded.clone();
        // The level at fault is the last command that the line names before it.
        expected["command"] = refused_command();
        return Some(expected);
    }
    if has("late-error") || has("range") || has("unknown-host") {
        assert_ne!(got["command"], Value::Null, "a bad value names its command: {case} {got}");
        return Some(bad_value(&refused_command()));
    }
    if has("workdir-loose") {
        return Some(bad_value(&Value::Null));
    }
    if has("int-syntax") && recorded["ok"] == true {
        let plain = case["args"].to_string().bytes().all(|b| b.is_ascii()) && !case["args"].to_string().contains('_');
        return (!plain).then(|| bad_value(&refused_command()));
    }
    if has("env-quirk") && recorded["version"] == true {
        return Some(match case["args"][0].as_str().unwrap() {
            "status" => return Some(got.clone()).filter(|g| g["chain"][0]["command"] == "status"),
            _ => json!({"ok": false, "exit": 2, "kind": "no_such_command", "command": null}),
        });
    }
    None
}

/// Takes out of both sides what differs in every case: defaults that are ours, and our environments.
fn normalise(value: &mut Value, ours: bool) {
    if value["global"]["docker_host"] == if ours { "auto" } else { "unix://var/run/docker.sock" } {
        value["global"]["docker_host"] = json!("<default>");
    }
    for invocation in value["chain"].as_array_mut().into_iter().flatten() {
        if invocation["command"] == "init" && invocation["params"]["env"] == if ours { "trixie" } else { "buster" } {
            invocation["params"]["env"] = json!("<default>");
        }
    }
}

#[test]
fn every_recorded_line_parses_as_recorded() {
    let dir = folder();
    let cwd = dir.path().canonicalize().unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in fixture("cli/cases.jsonl").replace("{CWD}", cwd.to_str().unwrap()).lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        let mut args: Vec<String> = serde_json::from_value(case["args"].clone()).unwrap();
        let env: Vec<(String, String)> =
            case["env"].as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned())).collect();
        let tags: Vec<&str> = case["tags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        // The environments of the original that we do not have are wrong values for us, rightly.
        let gone = ["buster", "stretch", "jessie", "coorm", "cigri", "oar3-dev"];
        let names_gone = case["expect"]["chain"].as_array().into_iter().flatten().any(|i| {
            i["command"] == "init"
                && gone.iter().any(|g| i["params"]["env"] == *g)
                && line.matches(i["params"]["env"].as_str().unwrap()).count() > 1
        });
        // And the one that the original had not is right.
        let is_new = case["expect"]["kind"] == "bad_value" && args.iter().any(|a| a == "--env=oar3");
        // The prompt and the refusal of an answer happen when the line runs; here it is only parsed.
        if case["expect"]["kind"] == "aborted" || names_gone || is_new {
            continue;
        }
        // Nothing at all is a help page; `--dry-run` would make it something.
        if !args.is_empty() {
            args.insert(0, "--dry-run".into());
        }
        count += 1;
        let out = call(dir.path(), &args, &env, case["stdin"].as_str().unwrap_or(""));
        let mut got = outcome(&out);
        let intended = intended(&tags, &case, &got);
        normalise(&mut got, true);
        let mut expected = intended.map_or_else(
            || case["expect"].clone(),
            |mut v| {
                normalise(&mut v, true);
                v
            },
        );
        normalise(&mut expected, false);
        // A `--` after the host of exec is dropped.
        if tags.contains(&"exec-dashdash") {
            for invocation in expected["chain"].as_array_mut().unwrap().iter_mut().filter(|i| i["command"] == "exec") {
                let words = invocation["params"]["cmd"].as_array_mut().unwrap();
                words.remove(0);
            }
        }
        if got != expected {
            wrong.push(format!(
                "{} {:?} {:?}\n  expected {expected}\n  got      {got}",
                case["id"], case["args"], case["env"]
            ));
        }
    }
    assert!(count > 950, "only {count} cases were compared");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong[..wrong.len().min(40)].join("\n"));
}

/// A small generator: the same seed gives the same lines.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }

    fn pick<'a>(&mut self, items: &[&'a str]) -> &'a str {
        items[self.below(items.len())]
    }
}

const WORDS: [&str; 50] = [
    "build",
    "clean",
    "connect",
    "destroy",
    "exec",
    "init",
    "install",
    "logs",
    "reset",
    "start",
    "status",
    "stop",
    "node1",
    "node2",
    "frontend",
    "server",
    "--",
    "-h",
    "--help",
    "-n",
    "4",
    "-n4",
    "--nodes",
    "--nodes=7",
    "-v",
    "/a:/b:ro",
    "--volume=/x",
    "-e",
    "A=b=c",
    "-X",
    "-g",
    "-Xgn3",
    "-f",
    "-l",
    "root",
    "-w",
    "/tmp",
    "-t",
    "--no-tty",
    "--tty",
    "-q",
    "--no-rm",
    "--lines=5",
    "--verbose",
    "--no-wait",
    "--plan",
    "--json",
    "",
    "-",
    "é",
];

/// A chain as a command line again, options spelled out.
fn render(line: &Line, program: &clap::Command) -> Vec<String> {
    let json = line.to_json();
    let mut words = Vec::new();
    for invocation in json["chain"].as_array().unwrap() {
        let name = invocation["command"].as_str().unwrap();
        words.push(name.to_owned());
        let command = program.find_subcommand(name).unwrap();
        let (arguments, options): (Vec<&Arg>, Vec<&Arg>) = command.get_arguments().partition(|arg| arg.is_positional());
        for option in options {
            let long = option.get_long().unwrap();
            match (&invocation["params"][option.get_id().as_str()], option.get_action()) {
                (Value::Null, _) => {}
                (Value::Bool(on), ArgAction::SetTrue) => words.extend(on.then(|| format!("--{long}"))),
                (Value::Bool(on), _) => words.extend((!on).then(|| format!("--{long}"))),
                (Value::Array(items), _) => {
                    words.extend(items.iter().map(|i| format!("--{long}={}", i.as_str().unwrap())));
                }
                (Value::String(text), _) => words.push(format!("--{long}={text}")),
                (other, _) => words.push(format!("--{long}={other}")),
            }
        }
        words.extend(arguments.first().map(|_| "--".to_owned()));
        for argument in arguments {
            match &invocation["params"][argument.get_id().as_str()] {
                Value::String(text) => words.push(text.clone()),
                Value::Array(items) => {
                    words.extend((name == "exec").then(|| "--".to_owned()));
                    words.extend(items.iter().map(|item| item.as_str().unwrap().to_owned()));
                }
                _ => {}
            }
        }
    }
    words
}

#[test]
fn random_lines_never_panic_and_survive_being_written_again() {
    let (mut random, mut ran, env) = (Random(20_261_124), 0, Env::new());
    let (mut parser, program) = (Parser::default(), parse::program());
    for _ in 0..100_000 {
        let length = 1 + random.below(8);
        let words: Vec<String> = (0..length).map(|_| random.pick(&WORDS).to_owned()).collect();
        if let Ok(Parsed::Run(line)) = parser.parse(&words, &env) {
            ran += 1;
            let again = render(&line, &program);
            let Ok(Parsed::Run(second)) = parser.parse(&again, &env) else {
                panic!("{words:?} became {again:?}, which is refused")
            };
            assert_eq!(line.to_json()["chain"], second.to_json()["chain"], "{words:?} became {again:?}");
        }
    }
    assert!(ran > 2_500, "only {ran} of the lines were accepted");
}

#[track_caller]
fn refusal(args: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let out = Command::new(BINARY).args(args).current_dir(dir.path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(out.status.code(), Some(2), "{args:?}");
    let (stdout, stderr) = texts(&out);
    assert_eq!(stdout, "", "{args:?}");
    stderr
}

#[test]
fn usage_errors_teach() {
    assert_eq!(
        refusal(&["start", "--node", "4"]),
        "Usage: oardocker start [OPTIONS]\nTry 'oardocker start --help' for help.\n\n\
         Error: No such option '--node'. Did you mean '--nodes'?\n"
    );
    for (args, expected) in [
        (&["restart"][..], "No such command 'restart'. Did you mean 'reset' or 'start' or 'status'?"),
        (
            &["connect", "frontend", "-l", "root"],
            "Options of connect go before HOSTNAME, global options before the first command.",
        ),
        (&["connect", "start"], "To chain after connect, name a host first: connect frontend start."),
        (&["connect", "fronted"], "Did you mean 'frontend'?"),
        (&["install", "x", "start", "-n"], "Usage: oardocker start [OPTIONS]"),
        (&["start", "-n", "-1"], "Invalid value for '-n' / '--nodes': -1 is not in the range 0 to 1000."),
        (&["start", "-n", "0"], "a cluster needs one node at least"),
        (&["start", "-e", "A"], "Invalid value for '-e' / '--env': 'A' is not of the form KEY=VALUE."),
        (&["start", "-v", "/a:/b:rx"], "has the mode \"rx\"; it is ro, rw or cow"),
        (&["install"], "Missing argument 'SRC'."),
        (&["--verbose"], "Missing command."),
        (
            &["init", "-e", "wheezy"],
            "'wheezy' is not one of 'bookworm', 'bullseye', 'buster', 'oar3', 'oar3-dev', 'stretch', 'trixie'.",
        ),
    ] {
        let text = refusal(args);
        assert!(text.contains(expected), "{args:?}: {text}");
    }
    assert!(refusal(&[]).starts_with("Usage: oardocker [OPTIONS] COMMAND1 [ARGS]..."));
}

#[test]
fn the_question_of_destroy_comes_after_parsing_and_a_no_runs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let answer = |args: &[&str], text: &str| {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let out = call(dir.path(), &args, &[], text);
        (out.status.code(), texts(&out).0)
    };
    assert_eq!(answer(&["destroy", "install"], "y\n"), (Some(2), String::new()));
    let (code, asked) = answer(&["init", "destroy"], "maybe\nn\n");
    assert_eq!(code, Some(1));
    assert_eq!(asked.matches("Are you sure you want to destroy all images? [y/N]: ").count(), 2);
    assert!(!dir.path().join(".oardocker").exists(), "init must not have run");
    assert_eq!(answer(&["destroy"], "").0, Some(1));
}
