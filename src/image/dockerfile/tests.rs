//! Instructions as they are written, and what is wrong with them.

use super::*;

fn steps(text: &str) -> Vec<Step> {
    parse(text).unwrap().stages.pop().unwrap().steps
}

fn actions(text: &str) -> Vec<Action> {
    steps(text).into_iter().map(|s| s.action).collect()
}

fn run(words: Words) -> Action {
    Action::Run(Box::new(Run { words, documents: vec![], mounts: vec![], network: RunNetwork::Default }))
}

#[test]
fn shell_and_exec_forms() {
    assert_eq!(
        actions("FROM a\nRUN echo \"x y\" && true\nRUN [\"a\", \"b c\"]\nCMD [\"x\"]\nCMD [ x ]\nENTRYPOINT []"),
        [
            run(Words::Shell("echo \"x y\" && true".into())),
            run(Words::Exec(vec!["a".into(), "b c".into()])),
            Action::Cmd(Words::Exec(vec!["x".into()])),
            Action::Cmd(Words::Shell("[ x ]".into())),
            Action::Entrypoint(Words::Exec(vec![])),
        ]
    );
}

#[test]
fn lines_and_texts() {
    let text = "# first\nFROM a\n\nRUN one ; \\\n  # in between\n  two\n# last\nUSER x\n";
    let steps = steps(text);
    assert_eq!((steps[0].line, steps[0].text.as_str()), (4, "RUN one ; two"));
    assert_eq!((steps[1].line, steps[1].text.as_str()), (8, "USER x"));
}

#[test]
fn stages() {
    let file = parse("ARG A=1 B\nFROM --platform=$P a:$A AS One\nRUN x\nFROM one\nFROM scratch as two").unwrap();
    assert_eq!(file.global_args.len(), 2);
    assert_eq!(file.stages[0].name.as_deref(), Some("one"));
    assert_eq!(file.stages[0].platform.as_deref(), Some("$P"));
    assert_eq!(
        (file.stage("ONE", 2, false), file.stage("1", 2, true), file.stage("1", 2, false)),
        (Some(0), Some(1), None)
    );
    assert_eq!(file.stage("two", 2, true), None, "it comes later");
}

#[test]
fn every_instruction() {
    let text = "ARG V=1\nFROM a:${V}\nMAINTAINER Me \"me@x\"\nENV A=1 \\\n B=2\nENV C hello world\nADD . /tmp\n\
                COPY --chown=a:b --chmod=755 x y/ /z/\nVOLUME /run\nVOLUME [\"/a\", \"/b\"]\nEXPOSE 80 443/tcp\n\
                STOPSIGNAL SIGRTMIN+3\nWORKDIR /w\nLABEL a=\"b c\"\nSHELL [\"/bin/bash\", \"-c\"]\nENTRYPOINT [\"e\"]\n\
                HEALTHCHECK --interval=1m30s --retries=3 CMD x\nHEALTHCHECK NONE\nONBUILD RUN x";
    let actions = actions(text);
    assert_eq!(actions.len(), 16);
    assert_eq!(actions[1], Action::Env(vec![("A".into(), "1".into()), ("B".into(), "2".into())]));
    assert_eq!(actions[2], Action::Env(vec![("C".into(), "hello world".into())]));
    let Action::Healthcheck(health) = &actions[13] else { panic!() };
    assert_eq!((health.times[0], health.retries, health.test.len()), (90_000_000_000, 3, 2));
}

#[test]
fn flags_and_documents() {
    let text = "FROM a\nCOPY --from=b --link --exclude=*.md --exclude=x --parents a /b\nCOPY <<A <<\"B\" /d/\none\nA\n$two\nB\n\
                RUN --mount=type=cache,target=/c --network=none <<EOF\nx\nEOF\nADD --checksum=sha256:1 --unpack=false http://x/y /z";
    let actions = actions(text);
    let Action::Copy(copy) = &actions[0] else { panic!() };
    assert!(copy.link && copy.parents && copy.exclude == ["*.md", "x"] && copy.from.as_deref() == Some("b"));
    let Action::Copy(copy) = &actions[1] else { panic!() };
    assert!(copy.sources.is_empty() && copy.documents[0].expand && !copy.documents[1].expand);
    assert_eq!(copy.documents[1].content(), "$two\n");
    let Action::Run(run) = &actions[2] else { panic!() };
    assert_eq!((run.network, run.mounts[0].kind, run.documents.len()), (RunNetwork::None, mount::Kind::Cache, 1));
    let Action::Copy(copy) = &actions[3] else { panic!() };
    // What is named has to be known before variables have values.
    let text = "FROM a\nRUN --mount=type=cache,FROM=b,target=/c,uid=$U x\nCOPY <<E ${X:-/a}/f\nE\nRUN : ${X:?m} && cat <<E\nUSER x\nE";
    let steps = parse(text).unwrap().stages.pop().unwrap().steps;
    let Action::Run(run) = &steps[0].action else { panic!() };
    assert_eq!(run.mounts[0].from.as_deref(), Some("b"));
    let Action::Copy(kept) = &steps[1].action else { panic!() };
    assert_eq!(kept.dest, "${X:-/a}/f");
    assert_eq!(steps.len(), 3);
    assert_eq!((copy.unpack, copy.checksum.as_deref()), (Some(false), Some("sha256:1")));
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, expected) in [
        ("FROM a\nFLY away", "D:2:1: FLY is no instruction"),
        (
            "FROM a\n\nRUN --security=insecure x",
            "D:3:5: RUN --security=insecure is not supported: every step runs in a sandbox",
        ),
        ("FROM a\nRUN --mount=type=odd x", "D:2:13: --mount: type=odd: it is bind, cache, tmpfs, secret or ssh"),
        (
            "FROM a\nRUN --mount=type=cache,source=s,target=/c x",
            "D:2:13: --mount: a part of a cache (source without from) is not supported: mount the whole",
        ),
        ("FROM a\nRUN --mount=type=bind x", "D:2:13: --mount: a mount of type bind needs a target"),
        ("FROM a\nCOPY --froom=b x y", "D:2:6: COPY has no option --froom"),
        ("FROM a\nCOPY --from=$b x y", "D:2:6: COPY: --from cannot have variables in it"),
        ("FROM a\nCOPY --chown x y", "D:2:6: COPY --chown needs a value"),
        ("FROM a\nCOPY --link --link x y", "D:2:6: COPY --link is given twice"),
        ("FROM a\nCOPY x", "D:2:1: COPY: it needs a source and a destination"),
        ("FROM a\nCOPY http://x/y /z", "D:2:6: COPY: it cannot copy a URL"),
        ("FROM a\nONBUILD FROM b", "D:2:9: ONBUILD FROM is not allowed"),
        ("FROM a\nONBUILD FLY b", "D:2:9: FLY is no instruction"),
        ("FROM a\nENV A", "D:2:5: ENV A has no value"),
        ("FROM a\nENV A=1 B", "D:2:9: there is no = in \"B\""),
        ("FROM a\nSHELL /bin/sh", "D:2:1: SHELL needs a JSON array"),
        (
            "FROM a\nHEALTHCHECK --interval=1 CMD x",
            "D:2:13: HEALTHCHECK --interval=1: it is a time such as 30s, 1m30s or 500ms",
        ),
        ("FROM a\nRUN cat <<EOF\nx", "D:2:9: the here-document \"EOF\" is not ended by a line \"EOF\""),
        (
            "FROM a AS 1b",
            "D:1:11: \"1b\" cannot be the name of a stage: it begins with a letter, and has letters, digits, -, _ and .",
        ),
        ("RUN x", "D:1:1: FROM must come first, or ARG"),
        ("", "D:1:1: there is no FROM in it"),
        ("FROM a b", "D:1:1: FROM is written as FROM image or FROM image AS name"),
        ("FROM a\nRUN [\"a\", 1]", "D:2:5: only strings may be in a JSON array"),
    ] {
        assert_eq!(parse(text).unwrap_err().told("D", text).to_string(), expected);
    }
}
