//! How fast layers are written: a ratio to what tar and zstd make of the same tree at the same time.

use crate::support::{alone, data_dir, require_root};
use oardocker::image::layer;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// A tree that every machine with the tests' packages has: hundreds of megabytes of programs.
const TREE: &str = "/usr/bin";

/// Less than 60 % of their speed is a regression.
const SLOWEST: f64 = 1.0 / 0.6;

fn timed(work: impl FnOnce()) -> Duration {
    let begin = Instant::now();
    work();
    begin.elapsed()
}

#[test]
fn a_layer_is_written_as_fast_as_tar_and_zstd_do() {
    require_root();
    let _alone = alone();
    let dir = tempfile::tempdir_in(data_dir()).unwrap();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    let line = format!("tar -C {TREE} -c . | zstd -q -3 -T0 -f -o {}", theirs.display());
    // The first reads the tree from the disk; of the others the best, as other processes come in between.
    let ratios = (0..4).map(|_| {
        let theirs = timed(|| assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success()));
        let ours = timed(|| drop(layer::write(Path::new(TREE), &ours, None).unwrap()));
        println!("{ours:?}, tar and zstd {theirs:?}");
        ours.as_secs_f64() / theirs.as_secs_f64()
    });
    let best = ratios.skip(1).fold(f64::INFINITY, f64::min);
    assert!(best < SLOWEST, "it takes {best:.2} times as long");
    let size = |path: &Path| path.metadata().unwrap().len() as f64;
    assert!(size(&ours) < 1.05 * size(&theirs));
}
