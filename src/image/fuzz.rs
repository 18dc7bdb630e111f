//! Hostile input by chance: the seeds in `tests/corpus` and the Dockerfiles of `tests/dockerfiles`, changed at random. `make fuzz` takes
//! ten minutes for each kind, `make test` a second. OARDOCKER_TEST_FUZZ is the time of each in seconds, OARDOCKER_TEST_SEED repeats a run.
//!
//! What must hold: nothing panics or takes long, no memory is asked for that the input does not have, and nothing outside of a tree is
//! touched. What is not refused has to mean the same when it is read again.

use super::copy::{Plan, Source, Supply, apply};
use super::dockerfile;
use super::pattern::Patterns;
use super::shell::Shell;
use super::tree::Tree;
use super::{check, evaluate};
use crate::rooted::Root;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// An input that takes longer is an attack that works.
const LONGEST: Duration = Duration::from_secs(5);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Calls `attempt` with inputs made of the seeds until the time is over.
fn fuzz(seeds: &[Vec<u8>], words: &[&str], mut attempt: impl FnMut(&[u8])) {
    assert!(!seeds.is_empty());
    let time = Duration::from_secs(number("OARDOCKER_TEST_FUZZ").unwrap_or(1));
    let seed = number("OARDOCKER_TEST_SEED").unwrap_or_else(rand::random);
    println!("OARDOCKER_TEST_SEED={seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let (begun, mut count) = (Instant::now(), 0_u64);
    for seed in seeds {
        attempt(seed);
    }
    while begun.elapsed() < time {
        let mut input = seeds[chance.random_range(0..seeds.len())].clone();
        for _ in 0..chance.random_range(1..8) {
            change(&mut input, seeds, words, &mut chance);
        }
        input.truncate(1 << 16);
        let now = Instant::now();
        attempt(&input);
        assert!(now.elapsed() < LONGEST, "{:?} takes {:?}", String::from_utf8_lossy(&input), now.elapsed());
        count += 1;
    }
    println!("{count} inputs");
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], chance: &mut StdRng) {
    let at = chance.random_range(0..=input.len());
    let end = (at + chance.random_range(0..16)).min(input.len());
    match chance.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << chance.random_range(0..8),
        1 if at < input.len() => input[at] = chance.random(),
        2 => drop(input.drain(at..end)),
        3 => {
            let part = input[at..end].to_vec();
            input.splice(at..at, part.repeat(chance.random_range(1..40)));
        }
        4 => {
            let other = &seeds[chance.random_range(0..seeds.len())];
            let from = chance.random_range(0..=other.len());
            let to = (from + chance.random_range(0..1024)).min(other.len());
            input.splice(at..end, other[from..to].iter().copied());
        }
        _ => drop(input.splice(at..end, words[chance.random_range(0..words.len())].bytes())),
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// The files of a folder of the corpus.
fn corpus(kind: &str) -> Vec<Vec<u8>> {
    let files = fs::read_dir(tests().join("corpus").join(kind)).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

/// A file of each case.
fn of_cases(name: &str) -> Vec<Vec<u8>> {
    let cases = fs::read_dir(tests().join("dockerfiles")).unwrap();
    cases.filter_map(|case| fs::read(case.unwrap().path().join(name)).ok()).collect()
}

const WORDS: [&str; 36] = [
    "FROM ",
    "RUN ",
    "COPY ",
    "ADD ",
    "ARG ",
    "ENV ",
    "ONBUILD ",
    "HEALTHCHECK ",
    "SHELL ",
    "--from=",
    "--mount=type=",
    "--chown=",
    "--",
    "<<EOF",
    "\nEOF\n",
    "<<-\"E\"",
    "${",
    "}",
    "${A:-",
    "${A//",
    "${A%%*",
    "\\\n",
    "`",
    "# escape=`\n",
    "\"",
    "'",
    "[\"",
    "\"]",
    "\n",
    "\r\n",
    " AS ",
    "**",
    "..",
    "\u{feff}",
    "\0",
    "=",
];

#[test]
fn dockerfiles() {
    let seeds: Vec<_> = of_cases("Dockerfile").into_iter().chain(corpus("dockerfile")).collect();
    let dir = tempfile::tempdir().unwrap();
    let root = Root::beneath(dir.path()).unwrap();
    let given = BTreeMap::from([("A".to_owned(), "a b".to_owned())]);
    fuzz(&seeds, &WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        match dockerfile::parse(&text) {
            Err(fault) => {
                let told = fault.told("D", &text);
                assert!(told.to_string().len() < 66_000 && told.details().iter().all(|line| line.len() < 1000));
            }
            Ok(file) => {
                let _ = evaluate::globals(&file, &given);
                fs::write(dir.path().join("Dockerfile"), input).unwrap();
                // What cannot be read as text is refused before.
                let _ = check::check(&root, &given);
            }
        }
    });
}

#[test]
fn words_and_variables() {
    let seeds: Vec<_> = of_cases("Dockerfile").into_iter().chain(corpus("words")).collect();
    let lookup = |name: &str| (name.len() < 3).then(|| "a/b.c  d".repeat(20));
    fuzz(&seeds, &WORDS, |input| {
        let text = String::from_utf8_lossy(input);
        for escape in ['\\', '`'] {
            let word = Shell::new(escape).word(&text, &lookup);
            let words = Shell::new(escape).words(&text, &lookup);
            assert_eq!(word.is_ok(), words.is_ok());
        }
    });
}

#[test]
fn ignore_files() {
    let seeds: Vec<_> = of_cases(".dockerignore").into_iter().chain(corpus("ignore")).collect();
    let words = ["**", "*", "!", "/", "[", "]", "[^", "\\", "?", "..", "\n", "# ", "a/b", "-", "{", "("];
    fuzz(&seeds, &words, |input| {
        let text = String::from_utf8_lossy(input);
        if let Ok(patterns) = Patterns::ignore_file(&text) {
            for path in ["a", "a/b", "a/b/c.md", "../a", "ä/b", "node_modules/z"] {
                let _ = patterns.matches(Path::new(path));
            }
        }
    });
}

/// Everything in a folder, with its content, its links and its times.
fn seen(dir: &Path) -> Vec<String> {
    use std::os::unix::fs::MetadataExt as _;
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        let facts = (meta.mode(), meta.nlink(), meta.mtime_nsec(), meta.size());
        all.push(format!("{path:?} {facts:?} {:?}", fs::read(&path).ok()));
    }
    all.sort();
    all
}

#[test]
fn archives() {
    let dir = tempfile::tempdir().unwrap();
    let (context, outside) = (dir.path().join("context"), dir.path().join("outside"));
    fs::create_dir(&context).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "secret").unwrap();
    let seeds = seeds_of_archives();
    let words = [
        "../",
        "..",
        "/",
        "../outside/secret",
        ".wh.",
        ".wh..wh..opq",
        "\0",
        "ustar\0",
        "ustar  \0",
        "L",
        "K",
        "x",
        "2",
        "1",
        "5",
    ];
    let expected = seen(&outside);
    let owner = Some((nix::unistd::getuid().as_raw(), nix::unistd::getgid().as_raw()));
    fuzz(&seeds, &words, |input| {
        let root = dir.path().join("root");
        fs::create_dir(&root).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("way")).unwrap();
        fs::write(context.join("a.tar"), with_sums(input)).unwrap();
        let tree = Tree::context(&Root::beneath(&context).unwrap()).unwrap();
        let plan = Plan {
            sources: vec![Source::Path("a.tar".into())],
            dest: "/".into(),
            unpack: true,
            owner,
            ..Plan::default()
        };
        let _ = apply(&plan, &Supply { tree: &tree, fetched: &[], limit: 1 << 20 }, &root);
        assert_eq!(seen(&outside), expected, "{input:?}");
        let top: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(top.len(), 3, "{top:?}");
        Root::beneath(dir.path()).unwrap().remove(Path::new("root")).unwrap();
    });
}

fn seeds_of_archives() -> Vec<Vec<u8>> {
    let mut seeds = corpus("archive");
    let mut builder = tar::Builder::new(Vec::new());
    let kinds = [
        (tar::EntryType::Directory, "d/", ""),
        (tar::EntryType::Regular, "d/f", ""),
        (tar::EntryType::Symlink, "l", "way"),
        (tar::EntryType::Link, "h", "d/f"),
        (tar::EntryType::Fifo, "p", ""),
        (tar::EntryType::Regular, "way/g", ""),
    ];
    for (kind, name, link) in kinds {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o644);
        if link.is_empty() {
            builder.append_data(&mut header, name, std::io::empty()).unwrap();
        } else {
            builder.append_link(&mut header, name, link).unwrap();
        }
    }
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"1"[..]), ("path", b"way/pax")]).unwrap();
    let mut header = tar::Header::new_gnu();
    header.set_size(5);
    header.set_mode(0o4755);
    builder.append_data(&mut header, "d/".repeat(80) + "long", &b"hello"[..]).unwrap();
    seeds.push(builder.into_inner().unwrap());
    seeds
}

/// An archive whose headers have the right sums again: without them nothing else of it is looked at.
fn with_sums(input: &[u8]) -> Vec<u8> {
    let mut archive = input.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let mut header = tar::Header::new_old();
            header.as_mut_bytes().copy_from_slice(block);
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    archive
}
