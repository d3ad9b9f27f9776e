//! What to allocate for a new or changed Service, in upstream's order; where it comes from is the caller's.

use super::addresses::{
    allocates_node_ports, is_headless, keep_allocated, needs_cluster_ip, needs_health_check_port,
    needs_node_ports, node_ports, set_ips, sync_cluster_ips,
};
use super::families::{self, Family, IPV4, IPV6};
use crate::At;
use crate::fields::{int, int_at, list_at};
use machinery::Value;
use machinery::field::ErrorList;
use std::net::IpAddr;

/// Where addresses and ports come from. An error is upstream's words for why there is none.
pub trait Pool {
    /// The families there are addresses of, the default first.
    fn families(&self) -> Vec<Family>;

    fn take_ip(&mut self, ip: IpAddr) -> Result<(), String>;

    /// Any address of a family.
    fn take_any_ip(&mut self, family: Family) -> Result<IpAddr, String>;

    fn take_port(&mut self, port: i64) -> Result<(), String>;

    fn take_any_port(&mut self) -> Result<i64, String>;
}

/// Why a Service does not get what it needs.
#[derive(Debug, Clone, PartialEq)]
pub enum AllocationError {
    /// The client asked for what it cannot have.
    Invalid(ErrorList),
    /// Nothing is left.
    Exhausted(String),
}

/// Completes a new (`old`: none) or changed Service with what it needs. Whatever was taken from the pool before an
/// error is the caller's to give back.
pub fn allocate(new: &mut Value, old: Option<&Value>, pool: &mut dyn Pool) -> Result<(), AllocationError> {
    if let Some(old) = old {
        keep_allocated(new, old);
    }
    sync_cluster_ips(new, old);
    let errors = families::init(new, old, &pool.families());
    if !errors.is_empty() {
        return Err(AllocationError::Invalid(errors));
    }
    allocate_ips(new, old, pool)?;
    if needs_node_ports(new) {
        match old {
            Some(old) => change_node_ports(new, old, pool)?,
            None => new_node_ports(new, pool)?,
        }
    }
    let had = old.is_some_and(needs_health_check_port);
    if needs_health_check_port(new) && !had {
        allocate_health_check_port(new, pool)?;
    }
    Ok(())
}

fn allocate_ips(new: &mut Value, old: Option<&Value>, pool: &mut dyn Pool) -> Result<(), AllocationError> {
    if !needs_cluster_ip(new) {
        return Ok(());
    }
    let count = |service: &Value| list_at(service, &["spec", "ipFamilies"]).len();
    // Which of the addresses are new: all, or the second.
    let from = match old {
        None => 0,
        Some(old) if families::is_matching_prefer_dual_stack(new, old) => return Ok(()),
        Some(old) if !needs_cluster_ip(old) => 0,
        Some(old) if is_headless(old) => return Ok(()),
        Some(old) if count(old) == 1 && count(new) == 2 => 1,
        Some(_) => return Ok(()),
    };
    if is_headless(new) {
        return Ok(());
    }
    let mut ips = list_at(new, &["spec", "clusterIPs"]).to_vec();
    let families: Vec<String> = list_at(new, &["spec", "ipFamilies"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    for (at, family) in families.iter().enumerate().skip(from) {
        let wanted = ips.get(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let shown = || Value::Array(list_at(new, &["spec", "clusterIPs"]).to_vec());
        let refused =
            |detail| AllocationError::Invalid(vec![At::new("spec.clusterIPs").invalid(shown(), detail)]);
        let got = match wanted.parse::<IpAddr>() {
            Ok(ip) => {
                pool.take_ip(ip)
                    .map_err(|why| refused(format!("failed to allocate IP {wanted}: {why}")))?;
                wanted
            }
            Err(_) => {
                let family = if family == IPV6 { IPV6 } else { IPV4 };
                let name = machinery::meta::name(new);
                let ip = pool.take_any_ip(family).map_err(|why| {
                    AllocationError::Exhausted(format!(
                        "failed to allocate a serviceIP for Service {name:?}: {why}"
                    ))
                })?;
                ip.to_string()
            }
        };
        match ips.get_mut(at) {
            Some(ip) => *ip = got.into(),
            None => ips.push(got.into()),
        }
    }
    if let Some(first) = ips.first().cloned() {
        new.set_path(&["spec", "clusterIP"], first);
    }
    set_ips(new, ips);
    Ok(())
}

/// Ports of one number and different protocols share a node port.
fn new_node_ports(service: &mut Value, pool: &mut dyn Pool) -> Result<(), AllocationError> {
    let any = allocates_node_ports(service);
    let mut given: Vec<(i64, i64)> = Vec::new();
    for at in 0..ports(service).len() {
        let (port, wanted) = port_and_node_port(service, at);
        if wanted == 0 && !any {
            continue;
        }
        let node_port = match given.iter().find(|(number, _)| *number == port) {
            None => {
                let asked = (0..ports(service).len())
                    .map(|other| port_and_node_port(service, other))
                    .find(|(number, node_port)| *number == port && *node_port != 0);
                let node_port = match asked {
                    Some((_, node_port)) => take_port(pool, at, node_port)?,
                    None => any_port(pool)?,
                };
                given.push((port, node_port));
                node_port
            }
            Some((_, node_port)) if wanted == 0 || wanted == *node_port => *node_port,
            Some(_) => take_port(pool, at, wanted)?,
        };
        set_node_port(service, at, node_port);
    }
    Ok(())
}

fn change_node_ports(new: &mut Value, old: &Value, pool: &mut dyn Pool) -> Result<(), AllocationError> {
    let any = allocates_node_ports(new);
    let mut taken: Vec<i64> = if needs_node_ports(old) {
        node_ports(old).collect()
    } else {
        Vec::new()
    };
    for at in 0..ports(new).len() {
        let (_, wanted) = port_and_node_port(new, at);
        if wanted == 0 {
            if any {
                let node_port = any_port(pool)?;
                set_node_port(new, at, node_port);
            }
        } else if !taken.contains(&wanted) {
            taken.push(take_port(pool, at, wanted)?);
        }
    }
    Ok(())
}

fn allocate_health_check_port(service: &mut Value, pool: &mut dyn Pool) -> Result<(), AllocationError> {
    const FIELD: [&str; 2] = ["spec", "healthCheckNodePort"];
    match int_at(service, &FIELD).filter(|port| *port != 0) {
        Some(port) => pool.take_port(port).map_err(|why| {
            AllocationError::Exhausted(format!(
                "failed to allocate requested HealthCheck NodePort {port}: {why}"
            ))
        }),
        None => {
            let port = pool.take_any_port().map_err(|why| {
                AllocationError::Exhausted(format!("failed to allocate a HealthCheck NodePort 0: {why}"))
            })?;
            service.set_path(&FIELD, port);
            Ok(())
        }
    }
}

fn ports(service: &Value) -> &[Value] {
    list_at(service, &["spec", "ports"])
}

fn port_and_node_port(service: &Value, at: usize) -> (i64, i64) {
    let port = &ports(service)[at];
    (int(port, "port").unwrap_or(0), int(port, "nodePort").unwrap_or(0))
}

fn set_node_port(service: &mut Value, at: usize, node_port: i64) {
    let ports = service
        .get_path_mut(&["spec", "ports"])
        .and_then(Value::as_array_mut);
    if let Some(port) = ports.and_then(|ports| ports.get_mut(at)) {
        port.set_path(&["nodePort"], node_port);
    }
}

fn take_port(pool: &mut dyn Pool, at: usize, port: i64) -> Result<i64, AllocationError> {
    let path = At::new("spec.ports");
    let refused = |why| AllocationError::Invalid(vec![path.index(at).child("nodePort").invalid(port, why)]);
    pool.take_port(port).map(|()| port).map_err(refused)
}

fn any_port(pool: &mut dyn Pool) -> Result<i64, AllocationError> {
    pool.take_any_port()
        .map_err(|why| AllocationError::Exhausted(format!("failed to allocate a nodePort: {why}")))
}
