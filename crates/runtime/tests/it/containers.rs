//! What a container sees, and what is seen of it.

use cri::v1::security_profile::ProfileType;
use cri::v1::*;

use crate::Test;
use crate::place::{Pod, security, with_runtime};

pub(crate) const TESTS: &[Test] = &[
    ("a_container_runs_logs_and_exits", a_container_runs_logs_and_exits),
    ("exec_and_stop", exec_and_stop),
    ("users_rights_and_files", users_rights_and_files),
    ("start_failures_are_told", start_failures_are_told),
    ("limits_reach_the_cgroup", limits_reach_the_cgroup),
    ("namespaces_are_shared_as_asked", namespaces_are_shared_as_asked),
    ("removal_leaves_nothing", removal_leaves_nothing),
    ("many_pods_at_once", many_pods_at_once),
];

fn a_container_runs_logs_and_exits() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let script = "echo out; echo err >&2; hostname; printf partial; exit 3";
        let (code, log) = pod.output(&place, "one", script, |_| ()).await;
        assert_eq!(code, 3);
        let mut lines: Vec<&str> = log.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, ["err", "out", "partial", "pod-host"]);
        let raw = std::fs::read_to_string(place.logs().join("one.log")).unwrap();
        assert!(raw.lines().any(|line| line.ends_with(" stderr F err")), "{raw}");
        assert!(
            raw.lines().any(|line| line.ends_with(" stdout P partial")),
            "{raw}"
        );

        let filter = ContainerFilter {
            pod_sandbox_id: pod.id.clone(),
            ..Default::default()
        };
        let list = clients
            .runtime
            .clone()
            .list_containers(ListContainersRequest { filter: Some(filter) })
            .await
            .unwrap();
        let id = &list.get_ref().containers[0].id;
        let status = pod.status(id).await;
        assert_eq!((status.reason.as_str(), status.exit_code), ("Error", 3));
        assert!(
            status.created_at > 0
                && status.started_at >= status.created_at
                && status.finished_at >= status.started_at
        );
        assert_eq!(status.image.unwrap().image, crate::place::IMAGE);
    });
}

fn exec_and_stop() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod
            .launch("one", "trap 'exit 7' TERM; while :; do sleep 0.05; done", |_| ())
            .await;
        assert_eq!(
            pod.exec(&id, "echo hello; echo oops >&2; exit 4").await,
            (4, "hello\n".into(), "oops\n".into())
        );
        let (code, out, _) = pod.exec(&id, "seq 1 100000").await;
        assert_eq!((code, out.lines().count()), (0, 100_000));

        let missing = ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["nope".into()],
            timeout: 5,
        };
        let error = clients.runtime.clone().exec_sync(missing).await.unwrap_err();
        assert!(
            error
                .message()
                .ends_with(r#"exec: "nope": executable file not found in $PATH"#),
            "{error}"
        );
        let slow = ExecSyncRequest {
            container_id: id.clone(),
            cmd: vec!["sleep".into(), "60".into()],
            timeout: 1,
        };
        let error = clients.runtime.clone().exec_sync(slow).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::DeadlineExceeded);

        let stop = StopContainerRequest {
            container_id: id.clone(),
            timeout: 20,
        };
        clients.runtime.clone().stop_container(stop).await.unwrap();
        assert_eq!(pod.status(&id).await.exit_code, 7);

        let stubborn = pod
            .launch("two", "trap '' TERM; while :; do sleep 0.05; done", |_| ())
            .await;
        let stop = StopContainerRequest {
            container_id: stubborn.clone(),
            timeout: 1,
        };
        clients.runtime.clone().stop_container(stop).await.unwrap();
        assert_eq!(pod.status(&stubborn).await.exit_code, 137);
    });
}

fn users_rights_and_files() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |config| {
            config.dns_config = Some(DnsConfig {
                servers: vec!["10.1.2.3".into()],
                ..Default::default()
            });
        })
        .await;
        let check =
            async |name: &str, script: &str, change: fn(&mut ContainerConfig), expected: (i32, &str)| {
                let got = pod.output(&place, name, script, change).await;
                assert_eq!((got.0, got.1.as_str()), expected, "{name}");
            };
        check(
            "user",
            "id -u; id -g; id -G; echo $HOME; echo x > /dev/stdout",
            |c| {
                security(c, |s| s.run_as_username = "web".into());
            },
            (0, "33\n34\n34 40\n/tmp\nx"),
        )
        .await;
        check(
            "uid",
            "id -u; id -g; id -G; echo $HOME",
            |c| {
                security(c, |s| {
                    s.run_as_user = Some(Int64Value { value: 1000 });
                    s.run_as_group = Some(Int64Value { value: 2000 });
                    s.supplemental_groups = vec![3000];
                });
            },
            (0, "1000\n2000\n2000 3000\n/"),
        )
        .await;
        check(
            "resolv",
            "cat /etc/resolv.conf; cat /etc/hostname",
            |_| (),
            (0, "nameserver 10.1.2.3\npod-host"),
        )
        .await;
        check(
            "readonly",
            "touch /x 2>/dev/null || echo refused; touch /dev/shm/y && echo shm",
            |c| {
                security(c, |s| s.readonly_rootfs = true);
            },
            (0, "refused\nshm"),
        )
        .await;
        check(
            "caps",
            "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status",
            |c| {
                security(c, |s| {
                    s.capabilities = Some(Capability {
                        drop_capabilities: vec!["ALL".into()],
                        add_capabilities: vec!["NET_BIND_SERVICE".into()],
                        ..Default::default()
                    });
                    s.no_new_privs = true;
                });
            },
            (
                0,
                "CapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1",
            ),
        )
        .await;
        check(
            "seccomp",
            "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status; unshare -m true 2>/dev/null || echo refused",
            |c| {
                security(c, |s| {
                    s.seccomp = Some(SecurityProfile {
                        profile_type: ProfileType::RuntimeDefault as i32,
                        localhost_ref: String::new(),
                    });
                });
            },
            (0, "NoNewPrivs:\t0\nSeccomp:\t2\nrefused"),
        )
        .await;
        check(
            "masked",
            "head -c1 /proc/timer_list; touch /proc/sys/x 2>/dev/null || echo refused",
            |c| {
                security(c, |s| {
                    s.masked_paths = vec!["/proc/timer_list".into()];
                    s.readonly_paths = vec!["/proc/sys".into()];
                });
            },
            (0, "refused"),
        )
        .await;
        check(
            "workdir",
            "pwd; env | grep -E '^(A|HOSTNAME)='",
            |c| {
                c.working_dir = "/made/for/me".into();
                c.envs = vec![KeyValue {
                    key: "A".into(),
                    value: "b c".into(),
                }];
            },
            (0, "/made/for/me\nHOSTNAME=pod-host\nA=b c"),
        )
        .await;
        check(
            "privileged",
            "mount -t tmpfs tmpfs /tmp && echo mounted",
            |c| security(c, |s| s.privileged = true),
            (0, "mounted"),
        )
        .await;
        check(
            "unprivileged",
            "mount -t tmpfs tmpfs /tmp 2>/dev/null || echo refused",
            |_| (),
            (0, "refused"),
        )
        .await;

        let host = place.dir.path().join("volume");
        std::fs::create_dir(&host).unwrap();
        std::fs::write(host.join("f"), "from the host").unwrap();
        let mount = |readonly| Mount {
            container_path: "/vol/deep".into(),
            host_path: host.display().to_string(),
            readonly,
            ..Default::default()
        };
        let (_, log) = pod
            .output(
                &place,
                "volume",
                "cat /vol/deep/f; echo back > /vol/deep/g",
                |c| c.mounts = vec![mount(false)],
            )
            .await;
        assert_eq!(log, "from the host");
        assert_eq!(std::fs::read_to_string(host.join("g")).unwrap(), "back\n");
        let (_, log) = pod
            .output(
                &place,
                "ro",
                "touch /vol/deep/h 2>/dev/null || echo refused",
                |c| c.mounts = vec![mount(true)],
            )
            .await;
        assert_eq!(log, "refused");
        let image = Mount {
            container_path: "/img".into(),
            image: Some(ImageSpec {
                image: crate::place::IMAGE.into(),
                ..Default::default()
            }),
            image_sub_path: "etc".into(),
            readonly: true,
            ..Default::default()
        };
        let (_, log) = pod
            .output(
                &place,
                "image",
                "head -n1 /img/passwd; touch /img/x 2>/dev/null || echo refused",
                |c| c.mounts = vec![image],
            )
            .await;
        assert_eq!(log, "root:x:0:0:root:/root:/bin/sh\nrefused");
        let list = clients
            .runtime
            .clone()
            .list_containers(ListContainersRequest::default())
            .await
            .unwrap()
            .into_inner();
        let of_image = list
            .containers
            .iter()
            .find(|c| c.metadata.as_ref().unwrap().name == "image")
            .unwrap();
        let status = pod.status(&of_image.id).await;
        let shown = status.mounts[0].image.as_ref().unwrap();
        assert_eq!(shown.image_ref, status.image_id, "which image is mounted is told");
    });
}

fn start_failures_are_told() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let id = pod
            .create("one", "", |config| config.command = vec!["/no/such/file".into()])
            .await;
        let error = pod.start(&id).await.unwrap_err();
        assert!(
            error
                .message()
                .contains(r#"exec: "/no/such/file": stat /no/such/file: no such file or directory"#),
            "{error}"
        );
        let status = pod.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(!status.message.is_empty());

        let error = pod
            .try_create("two", "", |config| {
                config.image.as_mut().unwrap().image = "nope:1".into()
            })
            .await;
        assert_eq!(error.unwrap_err().code(), tonic::Code::NotFound);
        let error = pod
            .try_create("three", "", |config| {
                security(config, |s| s.run_as_username = "nobody".into())
            })
            .await;
        assert!(
            error
                .unwrap_err()
                .message()
                .contains("unable to find user nobody")
        );
        let error = Pod::try_run(&place, &clients, |_| ())
            .await
            .err()
            .expect("the name is taken");
        assert!(error.message().contains("is reserved for"), "{error}");
        let error = Pod::try_run(&place, &clients, |config| {
            config.metadata.as_mut().unwrap().name = "other".into();
            config
                .linux
                .as_mut()
                .unwrap()
                .sysctls
                .insert("net.nope".into(), "1".into());
        })
        .await
        .err()
        .expect("no such sysctl");
        assert!(error.message().contains("set sysctl net.nope=1"), "{error}");
    });
}

fn limits_reach_the_cgroup() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        let limits = |memory| LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            cpu_shares: 512,
            ..Default::default()
        };
        let id = pod
            .launch("one", "sleep 1000", |config| {
                config.linux.as_mut().unwrap().resources = Some(limits(64 << 20));
            })
            .await;
        let request = ContainerStatsRequest {
            container_id: id.clone(),
        };
        let stats = clients
            .runtime
            .clone()
            .container_stats(request)
            .await
            .unwrap()
            .into_inner()
            .stats
            .unwrap();
        assert!(stats.memory.unwrap().available_bytes.unwrap().value <= 64 << 20);
        let update = UpdateContainerResourcesRequest {
            container_id: id.clone(),
            linux: Some(limits(32 << 20)),
            ..Default::default()
        };
        clients
            .runtime
            .clone()
            .update_container_resources(update)
            .await
            .unwrap();
        let status = pod.status(&id).await;
        assert_eq!(
            status.resources.unwrap().linux.unwrap().memory_limit_in_bytes,
            32 << 20
        );

        let script = "head -c 200000000 /dev/zero | dd bs=200000000 of=/dev/null 2>/dev/null; echo survived; exec dd if=/dev/zero of=/dev/null bs=100000000 count=1";
        let (code, _) = pod
            .output(&place, "hog", script, |config| {
                config.linux.as_mut().unwrap().resources = Some(limits(16 << 20));
            })
            .await;
        assert_eq!(code, 137);
        let list = clients
            .runtime
            .clone()
            .list_containers(ListContainersRequest::default())
            .await
            .unwrap()
            .into_inner();
        let hog = list
            .containers
            .iter()
            .find(|c| c.metadata.as_ref().unwrap().name == "hog")
            .unwrap();
        assert_eq!(pod.status(&hog.id).await.reason, "OOMKilled");
    });
}

fn namespaces_are_shared_as_asked() {
    with_runtime(|place, clients| async move {
        let options = |pid| NamespaceOption {
            pid: pid as i32,
            ..Default::default()
        };
        let pod = Pod::run(&place, &clients, |config| {
            let context = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
            context.namespace_options = Some(options(NamespaceMode::Pod));
        })
        .await;
        let shared = |config: &mut ContainerConfig| {
            security(config, |s| {
                s.namespace_options = Some(options(NamespaceMode::Pod))
            })
        };
        let first = pod
            .launch("first", "echo kept > /dev/shm/note; exec sleep 1000", shared)
            .await;
        // The other's process, its shared memory, and a first process that belongs to neither.
        let script = "grep -l sleep /proc/[0-9]*/comm 2>/dev/null | head -n1 | grep -c comm; cat /dev/shm/note; echo $$ | grep -v '^1$' > /dev/null && echo not-first; ls /proc/1/root 2>/dev/null || echo closed";
        let (_, log) = pod.output(&place, "second", script, shared).await;
        assert_eq!(log, "1\nkept\nnot-first\nclosed");

        let target = |config: &mut ContainerConfig| {
            security(config, |s| {
                s.namespace_options = Some(NamespaceOption {
                    target_id: first.clone(),
                    ..options(NamespaceMode::Target)
                });
            });
        };
        let (_, log) = pod
            .output(
                &place,
                "debug",
                "grep -l sleep /proc/[0-9]*/comm 2>/dev/null | head -n1 | grep -c comm",
                target,
            )
            .await;
        assert_eq!(log, "1");
    });
}

fn removal_leaves_nothing() {
    with_runtime(|place, clients| async move {
        let pod = Pod::run(&place, &clients, |_| ()).await;
        pod.launch("one", "sleep 1000", |_| ()).await;
        pod.create("two", "true", |_| ()).await;
        pod.remove().await;
        // Twice is as good as once.
        pod.remove().await;
        let list = clients
            .runtime
            .clone()
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await
            .unwrap();
        assert!(list.into_inner().items.is_empty());
        for dir in ["pods", "netns"] {
            assert_eq!(
                std::fs::read_dir(place.root().join(dir)).unwrap().count(),
                0,
                "{dir}"
            );
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(place.root().to_str().unwrap()));
    });
}

fn many_pods_at_once() {
    with_runtime(|place, clients| async move {
        let one = async |number: u32| {
            let pod = Pod::run(&place, &clients, |config| {
                config.metadata.as_mut().unwrap().name = format!("pod-{number}");
            })
            .await;
            let name = format!("c{number}");
            let (code, log) = pod
                .output(&place, &name, &format!("echo {number}; exit {number}"), |_| ())
                .await;
            assert_eq!((code, log), (number as i32, number.to_string()));
            pod.remove().await;
        };
        futures::future::join_all((0..20).map(one)).await;
        assert_eq!(std::fs::read_dir(place.root().join("pods")).unwrap().count(), 0);
    });
}
