//! The software the node is tried with: nginx as front, redis as back, busybox as everything else.

use crate::harness::skipped;
use crate::images::Image;

pub(crate) const TOOLS: &str = "kijabi.test/tools:1";
pub(crate) const BACK: &str = "kijabi.test/back:1";

/// A namespace `shop` with config map, secret, nginx front, redis back, their Services and a Job.
pub(crate) const SHOP: &str = include_str!("manifests/shop.yaml");

/// Busybox alone.
pub(crate) fn tools() -> Option<Image> {
    installed("busybox", Image::new(TOOLS, &[]).busybox())
}

/// nginx, whose answer to `/` is its version.
pub(crate) fn front(version: u32) -> Option<Image> {
    let image = Image::new(
        &format!("kijabi.test/front:{version}"),
        &["/usr/sbin/nginx", "-c", "/conf/nginx.conf"],
    )
    .file("etc/passwd", 0o644, "root:x:0:0:root:/:/bin/sh\n")
    .file("etc/group", 0o644, "root:x:0:\n")
    .file("www/index.html", 0o644, format!("front {version}\n"))
    .directory("var/log/nginx", 0o755)
    .directory("var/lib/nginx", 0o755)
    .busybox();
    installed("nginx", installed("busybox", image)?.program("/usr/sbin/nginx"))
}

pub(crate) fn back() -> Option<Image> {
    let image = Image::new(BACK, &["/usr/bin/redis-server"]).busybox();
    let image = installed(
        "redis-server",
        installed("busybox", image)?.program("/usr/bin/redis-server"),
    )?;
    installed("redis-cli", image.program("/usr/bin/redis-cli"))
}

fn installed(program: &str, image: Option<Image>) -> Option<Image> {
    if image.is_none() {
        skipped(&format!("{program} is not installed"));
    }
    image
}
