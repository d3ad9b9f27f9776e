//! What people type: a whole application through stock kubectl, as against upstream.

use crate::api::{Kubectl, fetch, loopback, name};
use crate::harness::{TestNode, find_program, wait_for};
use crate::payload;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};

/// A node on which the shop is open; its kubectls, new one first.
fn shop() -> Option<(TestNode, Vec<Kubectl>)> {
    let (front, next, back) = (payload::front(1)?, payload::front(2)?, payload::back()?);
    let kubectls = Kubectl::all();
    kubectls.first()?;
    let node = TestNode::start()?;
    for image in [front, next, back] {
        node.import(&image);
    }
    Some((node, kubectls))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn an_application_is_applied_asked_about_changed_and_deleted() {
    let Some((node, kubectls)) = shop() else { return };
    for kubectl in &kubectls {
        println!("with {}", kubectl.name());
        an_application(&node, kubectl);
    }
}

fn an_application(node: &TestNode, kubectl: &Kubectl) {
    let run = |words: &str| kubectl.run(node, words);
    // Old kubectls take what they do not know, the sleep handler, out of what they put back.
    let shop = payload::SHOP.replace("{sleep: {seconds: 1}}", "{exec: {command: [sleep, \"1\"]}}");
    let manifest = node.home().join("shop.yaml");
    std::fs::write(&manifest, &shop).unwrap();
    let file = manifest.display();

    let said = run(&format!("apply -f {file}"));
    assert_eq!(
        said.lines().filter(|line| line.ends_with(" created")).count(),
        8,
        "{said}"
    );
    run("-n shop wait --for=condition=Available --timeout=60s deployment/front deployment/back");
    run("-n shop wait --for=condition=Complete --timeout=60s job/visit");
    run("-n shop rollout status deployment/front --timeout=60s");
    assert_eq!(
        run("-n shop logs job/visit"),
        "good morning\nOK\n",
        "the Job reached front and back by name"
    );

    // The host reaches the front by both addresses.
    let address = run("-n shop get service front -o jsonpath={.spec.clusterIP}");
    let cluster = SocketAddr::new(address.parse().unwrap(), 80);
    for address in [cluster, loopback(30080)] {
        assert_eq!(
            node.fetch(address, "/").unwrap(),
            (200, "front 1\n".to_owned()),
            "{address}"
        );
    }

    // Applied again, nothing changes; a difference is shown before it is made.
    let said = run(&format!("apply -f {file}"));
    // `stringData` is written only: a client that compares cannot know that it is the same.
    assert_eq!(
        said.lines().filter(|line| line.ends_with(" unchanged")).count(),
        7,
        "{said}"
    );
    std::fs::write(
        &manifest,
        shop.replace("greeting: good morning", "greeting: good evening"),
    )
    .unwrap();
    if find_program("diff").is_some() {
        kubectl.refuse(node, &format!("diff -f {file}"), "+  greeting: good evening");
    }
    let said = run(&format!("apply --server-side --force-conflicts -f {file}"));
    assert_eq!(
        said.lines()
            .filter(|line| line.ends_with(" serverside-applied"))
            .count(),
        8,
        "{said}"
    );
    wait_for("the config map's volume is written anew", || {
        let answer = node.fetch(loopback(30080), "/greeting").ok()?;
        (answer.1 == "good evening").then_some(())
    });

    // Tables, descriptions, explanations.
    let said = run("-n shop get deployment,pods,services -o wide");
    for part in [
        "NAME",
        "READY",
        "deployment.apps/front",
        "2/2",
        "pod/back-",
        "NodePort",
        "80:30080/TCP",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let said = run("-n shop describe deployment front");
    for part in [
        "RollingUpdate",
        "0 max unavailable, 1 max surge",
        "NewReplicaSetAvailable",
        "ScalingReplicaSet",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let said = run("-n shop describe pods -l app=back");
    for part in [
        "Started",
        "Scheduled",
        "exec [redis-cli ping]",
        "kube-root-ca.crt",
        "BestEffort",
    ] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    assert!(run("explain deployment.spec.strategy").contains("rollingUpdate"));
    assert!(run("api-resources --no-headers").lines().count() > 50);
    assert_eq!(run("auth can-i delete nodes").trim(), "yes");

    // Scaled, edited, deleted.
    run("-n shop scale deployment front --replicas=3");
    run("-n shop wait --for=jsonpath={.status.readyReplicas}=3 --timeout=60s deployment/front");
    let editor = node.home().join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/replicas: 3/replicas: 1/' \"$1\"\n").unwrap();
    std::fs::set_permissions(&editor, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut edit = kubectl.command(node, &["-n", "shop", "edit", "deployment", "front"]);
    assert!(edit.env("EDITOR", &editor).status().unwrap().success());
    node.wait_ready_pods("shop", "app=front", 1);
    run("-n shop set image deployment front nginx=kijabi.test/front:2");
    run("-n shop rollout status deployment/front --timeout=60s");
    assert!(run("-n shop rollout history deployment/front").contains("REVISION"));
    let said = run("-n shop rollout undo deployment/front");
    assert_eq!(said, "deployment.apps/front rolled back\n");
    run("-n shop rollout status deployment/front --timeout=60s");
    wait_for("the first front answers again", || {
        let answer = node.fetch(loopback(30080), "/").ok()?;
        (answer.1 == "front 1\n").then_some(())
    });
    run("-n shop rollout restart deployment/front");
    run("-n shop rollout status deployment/front --timeout=60s");
    run("-n shop label deployment front tier=web");
    run("-n shop annotate deployment front note=seen");
    run(
        "-n shop patch deployment front --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/labels/tier\"}]",
    );
    run("-n shop delete service front");
    wait_for("the deleted Service answers no more", || {
        node.fetch(cluster, "/").is_err().then_some(())
    });
    run("delete namespace shop --timeout=60s");
    kubectl.refuse(node, "get namespace shop", "NotFound");
}

#[test]
fn streams_reach_into_pods_with_old_and_new_kubectl() {
    let Some((node, kubectls)) = shop() else { return };
    node.create(payload::SHOP);
    let front = node.wait_ready_pods("shop", "app=front", 2);
    node.wait_ready_pods("shop", "app=back", 1);
    let pod = name(&front[0]);
    for (turn, kubectl) in kubectls.iter().enumerate() {
        println!("with {}", kubectl.name());
        let run = |words: &str| kubectl.run(&node, &format!("-n shop {words}"));

        // exec: output, both directions, exit codes.
        assert_eq!(run(&format!("exec {pod} -- cat /www/index.html")), "front 1\n");
        let said = kubectl.feed(
            &node,
            &format!("-n shop exec -i {pod} -- sed s/a/b/"),
            "ask\nbar\n",
        );
        assert_eq!(said, "bsk\nbbr\n");
        let status = kubectl
            .command(&node, &["-n", "shop", "exec", pod, "--", "sh", "-c", "exit 7"])
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(7));
        let reply = run("exec deployment/back -- redis-cli ping");
        assert_eq!(reply, "PONG\n");
        let script = "nc -w 2 back 6379 < /etc/passwd | head -c 1";
        let reply = kubectl.run_words(&node, &["-n", "shop", "exec", pod, "--", "sh", "-c", script]);
        assert_eq!(reply, "-", "the front reaches the back by name");

        // A terminal, given by script(1) where there is one.
        if find_program("script").is_some() {
            let words = format!(
                "{} -n shop exec -it {pod} -- sh -c 'test -t 0 && stty size'",
                kubectl.program.display()
            );
            let mut command = node.machine().command("script");
            command
                .args(["-qec", &words, "/dev/null"])
                .env("KUBECONFIG", node.kubeconfig());
            let output = command.env("HOME", node.home()).output().unwrap();
            assert!(
                output.status.success(),
                "exec -it: {}",
                String::from_utf8_lossy(&output.stdout)
            );
        }

        // cp, both ways.
        let (there, back) = (node.home().join("there"), node.home().join("back"));
        let content: String = (0..20_000)
            .map(|line| format!("line {line} of turn {turn}\n"))
            .collect();
        std::fs::write(&there, &content).unwrap();
        run(&format!("cp {} {pod}:/tmp/copied", there.display()));
        run(&format!("cp {pod}:/tmp/copied {}", back.display()));
        assert!(text(&back) == content, "what was copied comes back the same");

        // port-forward.
        let forwarder = kubectl
            .command(
                &node,
                &["-n", "shop", "port-forward", "service/front", "18080:80"],
            )
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut forwarder = Background(forwarder);
        let line = forwarder.line();
        assert!(line.starts_with("Forwarding from"), "{line:?}");
        for _ in 0..3 {
            let answer = node.machine().inside(|| fetch(loopback(18080), "/"));
            assert_eq!(answer.unwrap(), (200, "front 1\n".to_owned()));
        }
        drop(forwarder);

        // attach and logs -f see what the container prints from now on.
        for follow in [&["logs", "-f", "--tail=0"][..], &["attach"]] {
            let words: Vec<&str> = ["-n", "shop"]
                .iter()
                .chain(follow)
                .copied()
                .chain([pod])
                .collect();
            let follower = kubectl
                .command(&node, &words)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut follower = Background(follower);
            let address = node.get(&format!("/api/v1/namespaces/shop/pods/{pod}"))["status"]["podIP"].clone();
            let address = SocketAddr::new(address.as_str().unwrap().parse().unwrap(), 80);
            // The follower may need a moment to be there: it is asked for again until it has been seen.
            let mut reader = BufReader::new(follower.0.stdout.take().unwrap());
            std::thread::scope(|scope| {
                let seen = scope.spawn(move || {
                    let mut line = String::new();
                    while !line.contains("/mark-me") {
                        line.clear();
                        assert!(reader.read_line(&mut line).unwrap() > 0, "the follower ended");
                    }
                });
                wait_for(&format!("{follow:?} shows the request"), || {
                    node.fetch(address, "/mark-me").unwrap();
                    seen.is_finished().then_some(())
                });
                seen.join().unwrap();
            });
        }
    }
}

/// A command that runs until dropped.
struct Background(Child);

impl Background {
    /// The first line it prints.
    fn line(&mut self) -> String {
        let stdout = self.0.stdout.as_mut().unwrap();
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') && stdout.read(&mut byte).unwrap() > 0 {
            line.push(byte[0]);
        }
        String::from_utf8(line).unwrap()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        crate::harness::kill_entered(&mut self.0);
    }
}
