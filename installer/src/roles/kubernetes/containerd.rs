//! containerd's configuration. hosts.toml of each registry is the step `registries`.

use super::release::Release;
use crate::facts::Facts;
use crate::steps::files::{Files, Wanted};
use crate::steps::{How, UnitAction};

/// Its socket.
pub const SOCKET: &str = "unix:///run/containerd/containerd.sock";
/// Its unit.
pub const UNIT: &str = "containerd.service";
/// Where network plugins are configured.
pub const NETWORKS: &str = "/etc/cni/net.d";

const CONFIG: &str = "/etc/containerd/config.toml";

/// The text, for containerd 1.7; 2.x reads it too.
fn render(release: &Release, facts: &Facts) -> String {
    let cri = "plugins.\"io.containerd.grpc.v1.cri\"";
    let mut text = "# Made by ingot-installer.\nversion = 2\n\n".to_owned();
    text += &format!("[{cri}]\n  sandbox_image = {:?}\n", release.pause);
    if !facts.lowers_oom {
        // runc would fail where the kernel forbids it.
        text += "  restrict_oom_score_adj = true\n";
    }
    text += &format!("\n[{cri}.containerd.runtimes.runc]\n  runtime_type = \"io.containerd.runc.v2\"\n");
    text += &format!("\n[{cri}.containerd.runtimes.runc.options]\n  SystemdCgroup = {}\n", !facts.legacy_cgroups);
    text += &format!("\n[{cri}.cni]\n  bin_dir = {:?}\n  conf_dir = \"{NETWORKS}\"\n", release.cni_bin);
    text += &format!("\n[{cri}.registry]\n  config_path = \"/etc/containerd/certs.d\"\n");
    // Its place by default, /opt/containerd, is read-only here.
    text + "\n[plugins.\"io.containerd.internal.v1.opt\"]\n  path = \"/var/lib/containerd/opt\"\n"
}

/// The step `containerd`.
pub fn files(release: &Release, facts: &Facts) -> Files {
    // It reads the file at its start only; containers outlive that.
    Files::of(vec![Wanted::private(CONFIG, render(release, facts))])
        .tell(UnitAction::new(How::Restart, UNIT))
        .tell(UnitAction::new(How::Start, UNIT))
}
