//! `kijabi status` and `kijabi check`.

use crate::cli::DataDir;
use crate::instance::Instance;
use anyhow::Context;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};
use std::process::ExitCode;
use std::time::Duration;

/// Says what runs; fails when nothing does, so that scripts can ask.
pub(crate) async fn run(options: &DataDir) -> anyhow::Result<ExitCode> {
    let directory = &options.data_dir;
    let instance = match Instance::open(directory) {
        Ok(instance) if instance.is_running() => instance,
        _ => {
            println!(
                "kijabi does not run at {}; start it with `kijabi up`",
                directory.display()
            );
            return Ok(ExitCode::FAILURE);
        }
    };
    let Some(running) = instance.read_running()? else {
        println!("kijabi is starting at {}", directory.display());
        return Ok(ExitCode::FAILURE);
    };
    println!(
        "kijabi {} runs (pid {}), data in {}",
        running.version,
        running.pid,
        directory.display()
    );
    println!("API server  {}", running.api_server);
    println!("kubeconfig  {}", running.kubeconfig.display());
    let ask = async {
        let client = client::remote(&running.kubeconfig).await?;
        let nodes = Api::<Node>::all(client.clone())
            .list(&ListParams::default())
            .await?;
        let pods = Api::<Pod>::all(client).list(&ListParams::default()).await?;
        anyhow::Ok((nodes, pods))
    };
    let (nodes, pods) = tokio::time::timeout(Duration::from_secs(5), ask)
        .await
        .context("the API server does not answer within 5 s")??;
    for node in nodes {
        let conditions = node
            .status
            .and_then(|status| status.conditions)
            .unwrap_or_default();
        let ready = conditions
            .iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let name = node.metadata.name.unwrap_or_default();
        println!(
            "node        {name} ({})",
            if ready { "Ready" } else { "NotReady" }
        );
    }
    let phase = |pod: &Pod| {
        pod.status
            .as_ref()
            .and_then(|status| status.phase.clone())
            .unwrap_or_default()
    };
    let of = |wanted: &str| pods.iter().filter(|pod| phase(pod) == wanted).count();
    println!(
        "pods        {} ({} running, {} pending, {} failed)",
        pods.items.len(),
        of("Running"),
        of("Pending"),
        of("Failed")
    );
    Ok(ExitCode::SUCCESS)
}

/// Tries what the kernel must offer.
pub(crate) fn check() -> anyhow::Result<ExitCode> {
    let scratch = std::env::temp_dir().join(format!("kijabi-check-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).with_context(|| format!("cannot create {}", scratch.display()))?;
    let findings = linux::check::check(&scratch);
    std::fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    for finding in &findings {
        println!("{finding}");
    }
    let missing = linux::check::missing(&findings).count();
    if missing == 0 {
        println!("\nThis machine can run kijabi.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{missing} required feature(s) missing: kijabi cannot run pods here.");
    Ok(ExitCode::FAILURE)
}
