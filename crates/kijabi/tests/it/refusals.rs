//! Bad input gets a clear message and changes nothing.

use crate::api::{Answer, is_ready};
use crate::harness::{Machine, TestNode, find_program, skipped, wait_for};
use crate::payload;
use serde_json::{Value, json};
use std::io::Write as _;
use std::process::Output;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

#[track_caller]
fn complains(output: &Output, complaints: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it succeeded: {said}");
    for complaint in complaints {
        assert!(said.contains(complaint), "{complaint:?} is not in {said:?}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_start_that_cannot_be_says_why() {
    let Some(machine) = Machine::new() else { return };
    let mut node = TestNode::new(&machine, &[]);
    if find_program("setpriv").is_some() {
        let mut up = machine.command("setpriv");
        up.args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(node.binary());
        complains(
            &up.args(["up", "--data-dir", "/tmp/kijabi-nobody"])
                .output()
                .unwrap(),
            &["root"],
        );
    } else {
        skipped("no setpriv");
    }

    // A machine that lacks what pods need: here, the right to make links and rules.
    if find_program("setpriv").is_some() {
        let limited = |words: &[&str]| {
            let mut command = machine.command("setpriv");
            command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin"]);
            command.arg(node.binary()).args(words).output().unwrap()
        };
        let data = node.home().join("lacking");
        let up = limited(&["up", "--data-dir", data.to_str().unwrap()]);
        complains(
            &up,
            &[
                "MISSING bridge",
                "MISSING nf_tables",
                "kijabi check",
                "Operation not permitted",
            ],
        );
        let check = limited(&["check"]);
        assert!(!check.status.success());
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert!(
            said.contains("MISSING veth") && said.contains("ok      overlayfs"),
            "{said}"
        );
    }

    let wrong = [
        (&["--cluster-cidr=10.43.0.0/17"][..], "overlap"),
        (&["--service-cidr=10.43.0.0/30"], "too small"),
        (&["--cluster-dns=10.9.9.9"], "--cluster-dns"),
        (&["--node-name=no_name"], "--node-name"),
        (&["--cluster-cidr=here"], "--cluster-cidr"),
    ];
    for (flags, complaint) in wrong {
        complains(&node.kijabi(&["up"]).args(flags).output().unwrap(), &[complaint]);
    }

    // The port is somebody else's.
    let listener = machine.inside(|| std::net::TcpListener::bind("0.0.0.0:6443").unwrap());
    complains(
        &node.kijabi(&["up"]).output().unwrap(),
        &["6443", "--https-listen-port"],
    );
    drop(listener);

    // The data directory cannot be written.
    let read_only = node.home().join("read-only");
    std::fs::create_dir(&read_only).unwrap();
    machine.sh(&format!("mount -t tmpfs -o ro tmpfs {}", read_only.display()));
    let mut up = machine.command(node.binary());
    let output = up.arg("up").arg("--data-dir").arg(&read_only).output().unwrap();
    complains(&output, &[read_only.to_str().unwrap(), "not writable"]);

    // Somebody runs here already, and goes on running.
    node.up();
    complains(
        &node.kijabi(&["up"]).output().unwrap(),
        &["another kijabi", "--data-dir"],
    );
    assert_eq!(node.request("GET", "/readyz", "").code, 200);
    assert!(node.kijabi(&["status"]).status().unwrap().success());
    assert!(node.stop().success());
    assert!(!node.kijabi(&["status"]).status().unwrap().success());
}

#[test]
fn images_that_are_none_are_refused() {
    let Some(tools) = payload::tools() else { return };
    let Some(node) = TestNode::start() else { return };
    let whole = node.home().join("whole.tar");
    tools.write(&whole);
    let bytes = std::fs::read(&whole).unwrap();
    let bad = node.home().join("bad.tar");
    let mut damaged = bytes.clone();
    let middle = damaged.len() / 2;
    damaged[middle..middle + 64].fill(0x5a);
    for content in [
        &b"this is no archive"[..],
        &bytes[..bytes.len() / 2],
        &bytes[..700],
        &damaged,
        b"",
    ] {
        std::fs::write(&bad, content).unwrap();
        complains(
            &node.kijabi(&["image", "import"]).arg(&bad).output().unwrap(),
            &["kijabi: "],
        );
        let images = String::from_utf8(node.kijabi(&["image", "list"]).output().unwrap().stdout).unwrap();
        assert!(!images.contains("kijabi.test"), "{images}");
    }
    complains(
        &node
            .kijabi(&["image", "import", "/nowhere.tar"])
            .output()
            .unwrap(),
        &["/nowhere.tar"],
    );
    complains(
        &node
            .kijabi(&["image", "remove", "kijabi.test/none:1"])
            .output()
            .unwrap(),
        &["kijabi.test/none:1"],
    );
    node.import(&tools);

    // A pod whose image nobody has: told as upstream tells it, again and again, ever less often.
    let pod = |name: &str, image: &str, policy: &str| {
        let container =
            json!({"name": "c", "image": image, "imagePullPolicy": policy, "command": ["sleep", "600"]});
        let spec = json!({"containers": [container], "terminationGracePeriodSeconds": 0});
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec});
        let answer = node.request("POST", PODS, pod.to_string());
        assert_eq!(answer.code, 201, "{}", answer.body);
    };
    pod("unknown", "127.0.0.1:1/none:1", "IfNotPresent");
    pod("never", "kijabi.test/none:1", "Never");
    pod("known", payload::TOOLS, "IfNotPresent");
    wait_for("the pod beside them runs", || {
        is_ready(&node.get(&format!("{PODS}/known"))).then_some(())
    });
    let waiting = |name: &str, reason: &str| {
        wait_for(&format!("{name} waits for {reason}"), || {
            let pod = node.get(&format!("{PODS}/{name}"));
            let waiting = pod["status"]["containerStatuses"][0]["state"]["waiting"].clone();
            (waiting["reason"] == reason).then(|| waiting["message"].as_str().unwrap_or_default().to_owned())
        })
    };
    // (`ErrImagePull` itself stands for a moment only; the event below tells of it)
    let message = waiting("unknown", "ImagePullBackOff");
    assert!(
        message.starts_with("Back-off pulling image \"127.0.0.1:1/none:1\""),
        "{message}"
    );
    let message = waiting("never", "ErrImageNeverPull");
    assert_eq!(
        message,
        "Container image \"kijabi.test/none:1\" is not present with pull policy of Never"
    );
    let events = node.get("/api/v1/namespaces/default/events?fieldSelector=involvedObject.name=unknown");
    let told: Vec<&str> = events["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|e| e["message"].as_str())
        .collect();
    for start in [
        "Pulling image \"127.0.0.1:1/none:1\"",
        "Failed to pull image \"127.0.0.1:1/none:1\": ",
        "Error: ErrImagePull",
    ] {
        assert!(
            told.iter().any(|message| message.starts_with(start)),
            "{start} in {told:#?}"
        );
    }
}

/// An authority of nobody's trust signs a client's certificate.
fn stranger() -> (String, String) {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::default();
    params
        .distinguished_name
        .push(rcgen::DnType::OrganizationName, "system:masters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "admin");
    let certificate = params.self_signed(&key).unwrap();
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn wrong_credentials_are_refused() {
    let Some(node) = TestNode::start() else { return };
    let (certificate, key) = stranger();
    let kubeconfig = kube::config::Kubeconfig::read_from(node.machine().path(&node.kubeconfig())).unwrap();
    let ask = |auth: kube::config::AuthInfo, method: &str, path: &str| {
        let mut kubeconfig = kubeconfig.clone();
        for user in &mut kubeconfig.auth_infos {
            user.auth_info = Some(auth.clone());
        }
        node.machine().block_on(async || {
            let options = kube::config::KubeConfigOptions::default();
            let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .unwrap();
            let client = kube::Client::try_from(config).unwrap();
            let kind = "application/json";
            crate::api::send(&client, method, path, kind, Vec::new()).await
        })
    };
    let nobody = kube::config::AuthInfo::default();
    let token = |token: &str| kube::config::AuthInfo {
        token: Some(token.to_owned().into()),
        ..nobody.clone()
    };
    let strange = kube::config::AuthInfo {
        client_certificate_data: Some(base64(&certificate)),
        client_key_data: Some(base64(&key).into()),
        ..nobody.clone()
    };
    let forged = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzeXN0ZW06c2VydmljZWFjY291bnQ6a3ViZS1zeXN0ZW06ZGVmYXVsdCJ9.";
    for auth in [token("nonsense"), token(forged), strange] {
        for path in [PODS, "/version"] {
            let answer = ask(auth.clone(), "GET", path).unwrap();
            is(&answer, 401, "Unauthorized", "Unauthorized");
        }
    }
    // Who says nothing of himself may see that there is a server, and no more.
    let answer = ask(nobody.clone(), "GET", PODS).unwrap();
    is(
        &answer,
        403,
        "Forbidden",
        "pods is forbidden: User \"system:anonymous\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\"",
    );
    assert_eq!(ask(nobody.clone(), "GET", "/version").unwrap().code, 200);
    assert_eq!(ask(nobody.clone(), "GET", "/readyz").unwrap().code, 200);
    // A service account may read itself into nothing it was not given.
    let account = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    wait_for("the service account is there", || {
        (node.request("GET", account.trim_end_matches("/token"), "").code == 200).then_some(())
    });
    let given = node.request("POST", account, body.to_string());
    let given = given.body["status"]["token"].as_str().unwrap().to_owned();
    let answer = ask(token(&given), "DELETE", "/api/v1/nodes/none").unwrap();
    is(
        &answer,
        403,
        "Forbidden",
        "User \"system:serviceaccount:default:default\" cannot delete resource \"nodes\"",
    );
}

fn base64(text: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(text)
}

fn map(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

#[track_caller]
fn is(answer: &Answer, code: u16, reason: &str, message: &str) {
    assert_eq!((answer.code, answer.reason()), (code, reason), "{}", answer.body);
    assert!(
        answer.message().contains(message),
        "{message:?} is not in {:?}",
        answer.message()
    );
    assert_eq!(answer.body["kind"], "Status");
}

#[test]
fn objects_that_are_wrong_are_refused_with_a_status() {
    let Some(node) = TestNode::start() else { return };
    let post = |path: &str, body: String| node.request("POST", path, body);
    // The controllers make one in every namespace.
    let root = format!("{MAPS}/kube-root-ca.crt");
    wait_for("the root certificate is published", || {
        (node.request("GET", &root, "").code == 200).then_some(())
    });
    let before = node.get(MAPS)["items"].as_array().unwrap().len();

    let text = post(MAPS, map("typed", &json!({"a": 1})).to_string());
    is(&text, 400, "BadRequest", "json: cannot unmarshal number");
    let mut unknown = map("unknown", &json!({}));
    unknown["colour"] = json!("red");
    let strict = format!("{MAPS}?fieldValidation=Strict");
    is(
        &post(&strict, unknown.to_string()),
        400,
        "BadRequest",
        "strict decoding error: unknown field \"colour\"",
    );
    is(
        &post(MAPS, map("No_Name", &json!({})).to_string()),
        422,
        "Invalid",
        "metadata.name: Invalid value: \"No_Name\"",
    );
    is(&post(MAPS, "{".to_owned()), 400, "BadRequest", "");
    is(
        &post(PODS, map("kind", &json!({})).to_string()),
        400,
        "BadRequest",
        "ConfigMap",
    );
    let large = map("large", &json!({"a": "x".repeat(3 << 20)})).to_string();
    is(
        &post(MAPS, large),
        413,
        "RequestEntityTooLarge",
        "limit is 3145728",
    );
    let over = map("over", &json!({"a": "x".repeat((1 << 20) + 1)})).to_string();
    is(&post(MAPS, over), 422, "Invalid", "Too long");
    for (open, close) in [("{\"a\":", "}"), ("[", "]")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        let body = format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"deep"}},"extra":{deep}}}"#
        );
        is(&post(MAPS, body), 400, "BadRequest", "");
    }
    let yaml = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: deep}}\nextra: {}",
        "[".repeat(10_000)
    );
    let answer = node
        .try_request("POST", MAPS, "application/yaml", yaml.into())
        .unwrap();
    is(&answer, 400, "BadRequest", "");
    is(
        &node.request("GET", "/api/v1/namespaces/default/pods/none", ""),
        404,
        "NotFound",
        "pods \"none\" not found",
    );
    assert_eq!(
        node.get(MAPS)["items"].as_array().unwrap().len(),
        before,
        "nothing was made"
    );

    // What may not change does not.
    let mut fixed = map("fixed", &json!({"a": "b"}));
    fixed["immutable"] = json!(true);
    assert_eq!(post(MAPS, fixed.to_string()).code, 201);
    is(
        &post(MAPS, fixed.to_string()),
        409,
        "AlreadyExists",
        "configmaps \"fixed\" already exists",
    );
    fixed["data"]["a"] = json!("c");
    let path = format!("{MAPS}/fixed");
    is(
        &node.request("PUT", &path, fixed.to_string()),
        422,
        "Invalid",
        "field is immutable when `immutable` is set",
    );
    assert_eq!(node.get(&path)["data"]["a"], "b");
    fixed["metadata"]["resourceVersion"] = json!("1");
    is(
        &node.request("PUT", &path, fixed.to_string()),
        409,
        "Conflict",
        "the object has been modified",
    );
}

#[test]
fn a_full_disk_refuses_writes_and_nothing_else() {
    let Some(machine) = Machine::new() else { return };
    let mut node = TestNode::new(&machine, &[]);
    let data = node.data().to_owned();
    machine.sh(&format!(
        "mkdir {0} && mount -t tmpfs -o size=64m tmpfs {0}",
        data.display()
    ));
    node.up();
    let write = |n: usize| {
        let object = map(&format!("map-{n}"), &json!({"ballast": "x".repeat(100_000)}));
        node.request("POST", MAPS, object.to_string())
    };
    assert_eq!(write(0).code, 201);
    let filler = machine.path(&data).join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while file.write_all(&[0; 1 << 16]).is_ok() {}
    drop(file);

    // Room that the store had set aside may hold a few more.
    let mut acknowledged = 1;
    let refused = loop {
        match write(acknowledged) {
            answer if answer.code == 201 => acknowledged += 1,
            answer => break answer,
        }
        assert!(acknowledged < 2000, "writes are never refused");
    };
    assert!(refused.code >= 500, "{}", refused.body);
    assert_eq!(refused.body["kind"], "Status", "{}", refused.body);
    println!(
        "after {acknowledged} writes: {} {}",
        refused.code,
        refused.message()
    );
    let there = || {
        node.get(MAPS)["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|map| !map["data"]["ballast"].is_null())
            .count()
    };
    assert_eq!(there(), acknowledged, "reads go on");

    std::fs::remove_file(filler).unwrap();
    wait_for("writes go on when there is room", || {
        (write(acknowledged).code == 201).then_some(())
    });
    assert_eq!(there(), acknowledged + 1);
    node.crash();
    node.up();
    let maps = node.get(MAPS)["items"].as_array().unwrap().len();
    // The root CA's is one of them.
    assert_eq!(
        maps,
        acknowledged + 2,
        "all that was acknowledged is there after a restart"
    );

    // The file system is the owner's: down leaves it mounted.
    assert!(node.down(true).status.success());
    machine.sh(&format!(
        "mountpoint -q {0} && test -z \"$(ls -A {0})\" && umount {0}",
        data.display()
    ));
}

#[test]
fn ten_thousand_watches_of_one_client_are_served() {
    const WATCHES: usize = 10_000;
    let Some(node) = TestNode::start() else { return };
    let path = node.kubeconfig();
    let heard = node.machine().block_on(async || {
        use futures::{StreamExt as _, TryStreamExt as _};
        use http_body_util::BodyExt as _;
        let client = client::remote(&path).await.unwrap();
        let watch = |n: usize| {
            let client = client.clone();
            async move {
                let uri = format!("{MAPS}?watch=true&resourceVersion=0&timeoutSeconds=120&n={n}");
                let request = http::Request::get(uri).body(kube::client::Body::empty()).unwrap();
                let response = client.send(request).await.map_err(|error| error.to_string())?;
                if response.status() != 200 {
                    return Err(format!("watch {n}: {}", response.status()));
                }
                Ok(response.into_body())
            }
        };
        let opened = futures::stream::iter(0..WATCHES).map(watch).buffered(64);
        let bodies: Vec<_> = opened
            .try_collect()
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let body = map("seen", &json!({})).to_string();
        let answer = crate::api::send(&client, "POST", MAPS, "application/json", body.into())
            .await
            .unwrap();
        assert_eq!(answer.code, 201, "others are served beside them");
        let each = bodies.into_iter().map(|mut body| async move {
            let mut text = Vec::new();
            while !String::from_utf8_lossy(&text).contains("\"seen\"") {
                match body.frame().await {
                    Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                    _ => return false,
                }
            }
            true
        });
        let all = futures::future::join_all(each);
        let all = tokio::time::timeout(crate::harness::PATIENCE, all)
            .await
            .expect("each watch hears of the object");
        all.into_iter().filter(|heard| *heard).count()
    });
    assert_eq!(heard, WATCHES);
    assert_eq!(node.request("GET", "/readyz", "").code, 200);
}
