//! A Docker Engine that answers late: what a killed command had asked of it is waited for before `stop` says that nothing is left.

use crate::support::{Engine, Workdir, alone, eventually, require_root, texts};
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long it takes to make a network, whether or not anybody waits for that.
const LATE: Duration = Duration::from_secs(3);

/// What the engine has.
#[derive(Default)]
struct World {
    networks: Vec<String>,
    /// Requests to make one that have come in.
    asked: usize,
}

/// An engine that knows networks and nothing else.
fn engine(path: &PathBuf) -> Arc<Mutex<World>> {
    let world = Arc::new(Mutex::new(World::default()));
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path).unwrap();
    let shared = world.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let world = shared.clone();
            std::thread::spawn(move || serve(stream, &world));
        }
    });
    world
}

/// One connection. Like dockerd's, it is kept until the work for it is done.
fn serve(mut stream: UnixStream, world: &Mutex<World>) {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = loop {
            if let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer) {
                Ok(n @ 1..) => request.extend(&buffer[..n]),
                _ => return,
            }
        };
        let text = String::from_utf8_lossy(&request[..head]).into_owned();
        let field = |name: &str| {
            let line = text.lines().find(|l| l.to_lowercase().starts_with(name));
            line.and_then(|l| l.split(':').nth(1)).map(|v| v.trim().to_owned())
        };
        let length: usize = field("content-length").and_then(|l| l.parse().ok()).unwrap_or(0);
        while request.len() < head + length {
            match stream.read(&mut buffer) {
                Ok(n @ 1..) => request.extend(&buffer[..n]),
                _ => return,
            }
        }
        let body: Vec<u8> = request.drain(..head + length).skip(head).collect();
        let (status, answer) = answer(text.lines().next().unwrap_or_default(), &body, world);
        let close = text.lines().next().is_some_and(|l| l.ends_with("HTTP/1.0"));
        let head = format!(
            "HTTP/1.1 {status}\r\nApi-Version: 1.41\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            answer.len()
        );
        if stream.write_all((head + &answer).as_bytes()).is_err() || close {
            return;
        }
    }
}

fn answer(line: &str, body: &[u8], world: &Mutex<World>) -> (&'static str, String) {
    let mut words = line.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = path.split('?').next().unwrap_or_default();
    let tail = path.rsplit('/').next().unwrap_or_default();
    match (method, tail) {
        (_, "_ping") => ("200 OK", "OK".into()),
        (_, "version") => {
            ("200 OK", r#"{"Version":"20.10.24","ApiVersion":"1.41","MinAPIVersion":"1.12","Components":[]}"#.into())
        }
        (_, "info") => ("200 OK", r#"{"CgroupDriver":"cgroupfs"}"#.into()),
        ("GET", "networks") => {
            let names = world.lock().unwrap().networks.clone();
            let list: Vec<_> =
                names.iter().map(|n| serde_json::json!({"Name": n, "Id": n, "IPAM": {"Config": []}})).collect();
            ("200 OK", serde_json::json!(list).to_string())
        }
        ("POST", "create") if path.contains("/networks/") => {
            world.lock().unwrap().asked += 1;
            std::thread::sleep(LATE);
            let value: serde_json::Value = serde_json::from_slice(body).unwrap();
            let name = value["Name"].as_str().unwrap().to_owned();
            world.lock().unwrap().networks.push(name.clone());
            ("201 Created", serde_json::json!({"Id": name, "Warning": ""}).to_string())
        }
        ("DELETE", name) if path.contains("/networks/") => {
            world.lock().unwrap().networks.retain(|n| n != name);
            ("204 No Content", String::new())
        }
        ("GET", "json") if path.ends_with("/containers/json") => ("200 OK", "[]".into()),
        // Images are there, and the right ones.
        ("GET", "json") if path.contains("/images/") => ("404 Not Found", r#"{"message":"no such image"}"#.into()),
        _ => ("404 Not Found", r#"{"message":"not found"}"#.into()),
    }
}

#[test]
fn what_an_engine_makes_late_is_waited_for() {
    require_root();
    // Images come from the real one's store.
    let real = Engine::Docker.alone();
    crate::cluster::ready_on(Engine::Docker, "trixie").ok(&["stop"]);
    drop(real);
    let _alone = alone();
    let workdir = Workdir::on(Engine::Docker, "trixie");
    let path = Engine::Docker.data_dir().join("late.sock");
    let world = engine(&path);
    let host = format!("unix://{}", path.display());
    let command = |args: &[&str]| {
        let mut command = workdir.command(args);
        command.env("OARDOCKER_DOCKER_HOST", &host);
        command
    };
    let mut start = command(&["start", "-n", "1"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually("the network is asked for", 20, || (world.lock().unwrap().asked == 1).then_some(()));
    start.kill().unwrap();
    start.wait().unwrap();
    assert!(world.lock().unwrap().networks.is_empty(), "it is not there yet");
    let begun = Instant::now();
    let out = command(&["stop"]).output().unwrap();
    assert!(out.status.success(), "{}", texts(&out).1);
    assert!(begun.elapsed() < LATE + Duration::from_secs(5), "no longer than it takes: {:?}", begun.elapsed());
    // Whatever comes now comes too late.
    std::thread::sleep(LATE);
    assert_eq!(world.lock().unwrap().networks, Vec::<String>::new(), "stop said that nothing is left");
    // Nobody waits where nobody was killed.
    let begun = Instant::now();
    assert!(command(&["stop"]).output().unwrap().status.success());
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let _ = std::fs::remove_file(&path);
}
