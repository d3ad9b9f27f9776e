//! The real kernel, in network namespaces that end with the test.

use super::*;
use crate::Kernel;
use crate::namespace::{Namespace, Namespaces, in_new_net};

/// Runs a test inside a new network namespace, or says why it cannot.
fn in_own_net(test: impl FnOnce() -> Result<()> + Send) {
    if let Err(error) = in_new_net(|| Ok(())) {
        println!("skipped: {}", error.chain());
        return;
    }
    in_new_net(test).unwrap_or_else(|error| panic!("{}", error.chain()));
}

#[test]
fn a_bridge_with_a_port_into_another_namespace() {
    in_own_net(|| {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        Kernel.create(Namespace::Net, &pod)?;
        assert!(Kernel.is_kept(&pod)?);

        let host = Netlink::open()?;
        let bridge = host.create_link("kjtestbr", &LinkKind::Bridge)?;
        assert_eq!(
            host.create_link("kjtestbr", &LinkKind::Bridge)?,
            bridge,
            "idempotent"
        );
        host.add_address("kjtestbr", "10.9.0.1/24".parse().unwrap())?;
        host.add_address("kjtestbr", "10.9.0.1/24".parse().unwrap())?;
        host.add_address("kjtestbr", "fd00:9::1/64".parse().unwrap())?;
        host.change_link("kjtestbr", &LinkChange::Up)?;
        let mac = [2, 0, 0, 0, 0, 7];
        let peer = VethPeer {
            name: "eth0".into(),
            net: Some(pod.clone()),
            mac: Some(mac),
            mtu: Some(1400),
        };
        host.create_link("kjtestv1", &LinkKind::Veth(peer))?;
        host.change_link("kjtestv1", &LinkChange::Master(Some("kjtestbr".into())))?;
        host.change_link("kjtestv1", &LinkChange::Hairpin(Switch::On))?;
        host.change_link("kjtestv1", &LinkChange::Up)?;
        let port = host.link("kjtestv1")?.unwrap();
        assert_eq!(
            (port.kind.as_str(), port.mtu, port.master),
            ("veth", 1400, Some(bridge))
        );
        assert!(port.up);

        let inside = Netlink::open_in(&pod)?;
        inside.change_link("lo", &LinkChange::Up)?;
        inside.add_address("eth0", "10.9.0.2/32".parse().unwrap())?;
        inside.change_link("eth0", &LinkChange::Up)?;
        let gateway = Route {
            destination: "10.9.0.1/32".parse().unwrap(),
            gateway: None,
            link: Some("eth0".into()),
            source: None,
            onlink: false,
        };
        inside.set_route(&gateway)?;
        inside.set_route(&gateway)?;
        let default = Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: Some("10.9.0.1".parse().unwrap()),
            link: Some("eth0".into()),
            source: None,
            onlink: false,
        };
        inside.set_route(&default)?;
        let routes = inside.routes()?;
        assert!(routes.contains(&gateway), "{routes:?}");
        assert!(routes.contains(&default), "{routes:?}");
        let eth0 = inside.link("eth0")?.unwrap();
        assert_eq!((eth0.mac, eth0.mtu), (Some(mac), 1400));
        assert!(
            inside
                .addresses()?
                .contains(&("eth0".into(), "10.9.0.2/32".parse().unwrap()))
        );

        host.set_neighbour(&Neighbour {
            link: "kjtestbr".into(),
            address: "10.9.0.2".parse().unwrap(),
            mac,
        })?;
        // A packet goes through: the host reaches a listener in the pod.
        crate::namespace::in_net(&pod, || {
            let listener = std::net::TcpListener::bind("10.9.0.2:80").unwrap();
            std::thread::spawn(move || listener.accept().map(drop));
            Ok(())
        })?;
        std::net::TcpStream::connect("10.9.0.2:80").unwrap();

        host.remove_neighbour("kjtestbr", "10.9.0.2".parse().unwrap())?;
        host.remove_neighbour("kjtestbr", "10.9.0.2".parse().unwrap())?;
        inside.remove_route("0.0.0.0/0".parse().unwrap())?;
        inside.remove_route("0.0.0.0/0".parse().unwrap())?;
        assert!(!inside.routes()?.iter().any(|r| r.destination.prefix_len() == 0));
        assert!(host.delete_link("kjtestv1")?);
        assert!(!host.delete_link("kjtestv1")?);
        Kernel.remove(&pod)?;
        Kernel.remove(&pod)?;
        assert!(!pod.exists());
        Ok(())
    });
}

#[test]
fn refusals_carry_the_kernels_reason() {
    in_own_net(|| {
        let host = Netlink::open()?;
        assert!(host.link("nosuchlink")?.is_none());
        assert!(
            host.change_link("nosuchlink", &LinkChange::Up)
                .unwrap_err()
                .is_not_found()
        );
        assert!(matches!(
            host.create_link("a/b", &LinkKind::Bridge),
            Err(Error::Invalid { .. })
        ));
        let off = "10.0.0.0/8".parse().unwrap();
        let via = Route {
            destination: off,
            gateway: Some("192.0.2.1".parse().unwrap()),
            link: None,
            source: None,
            onlink: false,
        };
        let error = host.set_route(&via).unwrap_err();
        assert!(
            matches!(error, Error::Refused { .. } | Error::Kernel { .. }),
            "{error}"
        );
        host.create_link(
            "kjtestvx",
            &LinkKind::Vxlan {
                id: 7,
                port: 8472,
                local: None,
                parent: None,
            },
        )?;
        assert_eq!(host.link("kjtestvx")?.unwrap().kind, "vxlan");
        Ok(())
    });
}
