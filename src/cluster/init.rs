//! The first process of a host: which one its image names, and how it is asked to end.

use crate::engine::Image;

/// The image's first process.
pub fn first_process(image: &Image) -> Vec<String> {
    let config = image.config.config().as_ref();
    let entry = config.and_then(|c| c.entrypoint().clone()).unwrap_or_default();
    let args = config.and_then(|c| c.cmd().clone()).unwrap_or_default();
    let all: Vec<String> = entry.into_iter().chain(args).collect();
    if all.is_empty() { vec!["/sbin/init".into()] } else { all }
}

/// Whether a first process is a systemd, or becomes one.
pub fn is_init(process: &[String]) -> bool {
    let name = process.first().map(|p| p.rsplit('/').next().unwrap_or(p));
    matches!(name, Some("init" | "systemd" | "container-init"))
}

/// The signal that asks a first process to end: systemd has its own.
pub fn end_signal(pid: u32) -> i32 {
    const SIGRTMIN_3: i32 = 37;
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    if matches!(name.trim(), "systemd" | "init") { SIGRTMIN_3 } else { nix::libc::SIGTERM }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::image::{ConfigBuilder, ImageConfigurationBuilder};

    fn image(entry: &[&str], cmd: &[&str]) -> Image {
        let own = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let config = ConfigBuilder::default().entrypoint(own(entry)).cmd(own(cmd)).build().unwrap();
        let mut image = ImageConfigurationBuilder::default();
        image = image.architecture("amd64").os("linux").config(config);
        let rootfs = oci_spec::image::RootFsBuilder::default().typ("layers").diff_ids(Vec::<String>::new());
        Image::new(image.rootfs(rootfs.build().unwrap()).build().unwrap(), Vec::new())
    }

    #[test]
    fn the_first_process_is_the_image_s() {
        assert_eq!(first_process(&image(&[], &[])), ["/sbin/init"]);
        assert_eq!(first_process(&image(&[], &["rsyslogd", "-n"])), ["rsyslogd", "-n"]);
        assert_eq!(first_process(&image(&["/a"], &["b"])), ["/a", "b"]);
        assert!(is_init(&["/usr/local/sbin/container-init".into()]) && is_init(&["/sbin/init".into()]));
        assert!(!is_init(&["rsyslogd".into(), "-n".into()]));
    }
}
