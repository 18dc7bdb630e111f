//! Builds on the fake store: order, cache, and that a build that fails leaves no step behind and loses one at most.

use super::*;
use crate::engine::ProcessSpec;
use crate::engine::fake::{Answer, Fake, Trouble};
use crate::image::name::Name;
use crate::image::uplink::Uplink;
use crate::rooted::Root;
use std::fs;
use std::sync::Mutex;

/// Steps reach nothing.
#[derive(Debug)]
struct NoUplink;

#[async_trait::async_trait]
impl Uplink for NoUplink {
    async fn attach(&self, _: &str) -> Result<PathBuf> {
        Ok("/none".into())
    }
    async fn detach(&self, _: &str) -> Result<()> {
        Ok(())
    }
    fn files(&self) -> Vec<(PathBuf, String)> {
        Vec::new()
    }
    fn variables(&self) -> Vec<(String, String)> {
        vec![("http_proxy".into(), "http://p".into())]
    }
}

/// Who runs the test: nobody else needs root to give files to.
fn own() -> String {
    format!("--chown={}:{}", nix::unistd::getuid(), nix::unistd::getgid())
}

/// Folders with Dockerfiles, and a store.
struct World {
    dir: tempfile::TempDir,
    fake: Arc<Fake>,
    lines: Arc<Mutex<Vec<String>>>,
}

/// Says which command it was; one that is to fail does.
fn program(process: &ProcessSpec) -> Answer {
    let line = process.args.last().cloned().unwrap_or_default();
    Answer { code: u32::from(line.contains("fail")) * 7, out: format!("ran {line}\n"), ..Answer::default() }
}

impl World {
    /// A role `node` on a role `base`, which is on nothing.
    fn new() -> Self {
        let world = Self {
            dir: tempfile::tempdir().unwrap(),
            fake: Arc::new(Fake::with_program(program).unwrap()),
            lines: Arc::default(),
        };
        world.write("base/Dockerfile", &format!("FROM scratch\nCOPY {} etc /etc\nENV A=1\nRUN one\n", own()));
        world.write("base/etc/passwd", "root:x:0:0::/root:/bin/sh\n");
        world.write("node/Dockerfile", &format!("FROM o/base\nCOPY {} file /file\nRUN two $A\nWORKDIR /w\n", own()));
        world.write("node/file", "1");
        world
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn definitions(&self) -> Vec<Definition> {
        let of = |title: &str| Definition {
            title: title.into(),
            known_as: vec![Name::new(&format!("o/{title}"))],
            tag: format!("o/{title}:latest"),
            context: Arc::new(Root::beneath(&self.dir.path().join(title)).unwrap()),
            args: BTreeMap::new(),
            labels: BTreeMap::new(),
        };
        // The wrong way round: what comes first is the builder's to find.
        vec![of("node"), of("base")]
    }

    fn builder(&self, options: Options) -> Builder {
        let lines = self.lines.clone();
        Builder {
            images: self.fake.clone(),
            uplink: Arc::new(NoUplink),
            scratch: self.dir.path().join("scratch"),
            caches: self.dir.path().join("caches"),
            cgroup: None,
            listener: Arc::new(move |title, line| lines.lock().unwrap().push(format!("{title} | {line}"))),
            options,
            cancel: CancellationToken::new(),
        }
    }

    async fn build(&self, options: Options) -> Result<Vec<String>> {
        self.lines.lock().unwrap().clear();
        self.fake.expect(None);
        let built = self.builder(options).build(&self.definitions()).await?;
        Ok(built.into_iter().map(|(_, id)| id).collect())
    }

    /// Changes of the filesystem that were made, and not found.
    fn made(&self) -> usize {
        self.fake.calls().iter().filter(|call| call.starts_with("begin_step")).count()
    }

    fn said(&self, line: &str) -> bool {
        self.lines.lock().unwrap().iter().any(|said| said == line)
    }
}

#[tokio::test]
async fn parents_come_first_and_steps_are_found_again() {
    let world = World::new();
    let first = world.build(Options::default()).await.unwrap();
    assert_eq!(world.made(), 5);
    assert!(world.said("base | ran one") && world.said("node | ran two $A"));
    let again = world.build(Options::default()).await.unwrap();
    assert_eq!((world.made(), &again), (0, &first));
    assert_eq!(world.lines.lock().unwrap().iter().filter(|l| l.ends_with(" ---> Using cache")).count(), 5);
    // What is above a change is made anew, what is below it is not.
    world.write("node/file", "2");
    let changed = world.build(Options::default()).await.unwrap();
    assert_eq!((world.made(), changed[1] == first[1], changed[0] == first[0]), (3, true, false));
    world.write("base/etc/passwd", "root:x:0:0::/:/bin/sh\n");
    world.build(Options::default()).await.unwrap();
    assert_eq!(world.made(), 5);
    world.build(Options { no_cache: true, ..Options::default() }).await.unwrap();
    assert_eq!(world.made(), 5);
    // Images that are there are left as they are.
    world.write("base/etc/passwd", "root:x:0:0::/:/bin/bash\n");
    world.build(Options { keep: true, ..Options::default() }).await.unwrap();
    assert_eq!(world.made(), 0);
    assert!(world.said("base | It is already there"));
}

#[tokio::test]
async fn layers_that_somebody_took_away_are_made_again() {
    let world = World::new();
    let first = world.build(Options::default()).await.unwrap();
    world.fake.lose_layers();
    assert_eq!(world.build(Options::default()).await.unwrap(), first);
    assert_eq!(world.made(), 5);
}

#[tokio::test]
async fn a_step_that_fails_is_named_and_costs_itself() {
    let world = World::new();
    world.write("node/Dockerfile", &format!("FROM o/base\nCOPY {} file /file\nRUN fail\n", own()));
    let error = world.build(Options::default()).await.unwrap_err();
    let text = error.to_string();
    assert!(text.starts_with("cannot build node: ") && text.contains("node/Dockerfile:3:1: RUN fail"), "{text}");
    assert!(text.ends_with("exit code 7"), "{text}");
    assert_eq!(error.details(), ["ran fail"]);
    assert_eq!(world.fake.left(), Vec::<String>::new());
    world.write("node/Dockerfile", &format!("FROM o/base\nCOPY {} file /file\nRUN two\n", own()));
    world.build(Options::default()).await.unwrap();
    assert_eq!(world.made(), 1);
}

#[tokio::test]
async fn an_interrupted_build_ends_and_leaves_no_step_wherever_it_is() {
    let calls = {
        let world = World::new();
        world.build(Options::default()).await.unwrap();
        world.fake.calls().len()
    };
    // The last one only asks for the ids of what is there.
    for number in 1..calls {
        let world = World::new();
        let builder = world.builder(Options::default());
        let cancel = builder.cancel.clone();
        world.fake.at(number, move || cancel.cancel());
        let outcome = builder.build(&world.definitions()).await;
        let when = format!("interrupted at call {number}: {:?}", world.fake.calls().get(number - 1));
        match outcome {
            Err(e) => assert_eq!(e.exit_code(), 130, "{when}: {e}"),
            // What is put under its name is there, and nothing is left to undo.
            Ok(_) => assert!(when.contains("put_image o/node"), "{when}"),
        }
        assert_eq!(world.fake.left(), Vec::<String>::new(), "{when}");
    }
}

#[tokio::test]
async fn whatever_a_store_refuses_no_step_stays_and_the_next_build_goes_on() {
    let calls = {
        let world = World::new();
        world.build(Options::default()).await.unwrap();
        world.fake.calls()
    };
    assert!(calls.len() > 25, "{calls:?}");
    for trouble in [Trouble::Fail, Trouble::FailAfter] {
        for number in 1..=calls.len() {
            let world = World::new();
            world.fake.expect(Some(trouble(number)));
            let outcome = world.builder(Options::default()).build(&world.definitions()).await;
            let when = format!("{:?}: {}", trouble(number), calls[number - 1]);
            let text = outcome.expect_err(&when).to_string();
            assert!(text.contains("the fake"), "{when}: {text}");
            assert_eq!(world.fake.left(), Vec::<String>::new(), "{when}");
            world.build(Options::default()).await.unwrap();
            assert!(fs::read_dir(world.dir.path().join("scratch")).unwrap().next().is_none(), "{when}");
        }
    }
}

#[tokio::test]
async fn stages_are_made_once_and_all_end_when_one_fails() {
    let world = World::new();
    let stages = "FROM o/base AS a\nRUN fail\nFROM o/base AS b\nRUN two\nFROM a AS c\nFROM scratch\n\
                  COPY --from=a /x /x\nCOPY --from=b /file /y\nCOPY --from=c /x /z\n";
    world.write("node/Dockerfile", stages);
    let error = world.build(Options::default()).await.unwrap_err().to_string();
    assert!(error.contains("node/Dockerfile:2:1: RUN fail"), "{error}");
    assert_eq!(world.fake.left(), Vec::<String>::new());
    let ran = |line: &str| world.lines.lock().unwrap().iter().filter(|said| said.ends_with(line)).count();
    assert_eq!((ran("ran fail"), ran("ran two")), (1, 1), "the one that failed is not tried again");
    let copied =
        format!("FROM o/base AS a\nRUN unused fail\nFROM o/base AS b\nFROM b\nCOPY {} --from=b /etc /etc2\n", own());
    world.write("node/Dockerfile", &copied);
    world.build(Options::default()).await.unwrap();
    assert_eq!(ran("ran unused fail"), 0, "nothing needs it");
}

#[tokio::test]
async fn a_file_may_have_thousands_of_stages() {
    let world = World::new();
    let mut text = format!("FROM scratch AS s0\nCOPY {} file /file\n", own());
    (1..1000).for_each(|n| text.push_str(&format!("FROM s{} AS s{n}\nENV N={n}\n", n - 1)));
    world.write("node/Dockerfile", &text);
    world.build(Options::default()).await.unwrap();
    let error = |text: &str| {
        world.write("node/Dockerfile", text);
        async { world.build(Options::default()).await.unwrap_err().to_string() }
    };
    let told = error("FROM scratch\nCOPY --from=3 /a /b\n").await;
    assert!(told.ends_with("there is no stage 3 in front of this one"), "{told}");
    let told = error("FROM scratch\nCOPY --from=later /a /b\nFROM scratch AS later\nFROM 0\n").await;
    assert!(told.contains("cannot build node"), "{told}");
}
