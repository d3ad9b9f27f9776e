//! Cluster addresses and node ports: what is taken, held in memory and rebuilt from the stored Services at start.
//!
//! What a Service needs is decided in `resources`; here it is taken and given back. As upstream, addresses and ports
//! nobody named come from the upper part of their range first, so that the lower part stays for those who name one.
//!
//! **Invariant:** an address or port is free exactly if no stored Service and no write under way holds it. With
//! several servers over one store each sees only its own writes under way.

use super::hooks::{Hooks, Undo};
use super::{Write, store_error};
use crate::server::Core;
use async_trait::async_trait;
use ipnet::IpNet;
use machinery::codec::{json, proto};
use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::status::ApiError;
use machinery::{Value, schema::TypeId};
use parking_lot::Mutex;
use rand::RngExt as _;
use resources::core::service::addresses::{held_ips, held_ports};
use resources::core::service::allocate::{AllocationError, Pool, allocate};
use resources::core::service::families::{Family, IPV4, IPV6};
use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use store::{KeyRange, RangeRequest, Store};

const SERVICES: &str = "/registry/services/specs/";
const ALLOCATED_IP: &str = "provided IP is already allocated";
const ALLOCATED_PORT: &str = "provided port is already allocated";
const MISMATCHED: &str = "the provided network does not match the current range";
const FULL: &str = "range is full";

/// Upstream's default of `--service-node-port-range`.
pub const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

/// The hooks of Services.
#[derive(Clone)]
pub struct ServiceAllocator {
    state: Arc<Mutex<State>>,
}

struct State {
    networks: Vec<Network>,
    ports: RangeInclusive<i64>,
    used_ports: HashSet<i64>,
}

/// One range of addresses; they are counted from its first.
struct Network {
    range: IpNet,
    first: u128,
    last: u128,
    used: HashSet<u128>,
}

impl ServiceAllocator {
    /// Reads what the stored Services hold. `ranges`: one, or one of each family, the default first.
    pub async fn load(
        store: &dyn Store,
        ranges: &[IpNet],
        ports: RangeInclusive<u16>,
    ) -> Result<Self, ApiError> {
        let allocator = Self::new(ranges, ports);
        let stored = store
            .range(RangeRequest::new(KeyRange::prefix(SERVICES)))
            .await
            .map_err(store_error)?;
        let service = api::kind(&GroupVersionKind::new("", "v1", "Service"));
        for kv in stored.kvs {
            let Some(object) = service.and_then(|ty| decode(&kv.value, ty)) else {
                tracing::warn!(key = %String::from_utf8_lossy(&kv.key), "a stored Service cannot be read");
                continue;
            };
            allocator.state.lock().hold(&object);
        }
        Ok(allocator)
    }

    /// Nothing taken.
    pub fn new(ranges: &[IpNet], ports: RangeInclusive<u16>) -> Self {
        let state = State {
            networks: ranges.iter().map(|range| Network::new(*range)).collect(),
            ports: i64::from(*ports.start())..=i64::from(*ports.end()),
            used_ports: HashSet::new(),
        };
        Self {
            state: Arc::new(Mutex::new(state)),
        }
    }

    /// What to register with the server.
    pub fn hooks(self) -> (GroupResource, Arc<dyn Hooks>) {
        (GroupResource::new("", "services"), Arc::new(self))
    }

    fn begin(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<Option<Undo>, ApiError> {
        let mut taken = Taking {
            state: self.state.lock(),
            ips: Vec::new(),
            ports: Vec::new(),
        };
        let outcome = allocate(new, old, &mut taken);
        let (ips, ports) = (std::mem::take(&mut taken.ips), std::mem::take(&mut taken.ports));
        if let Err(error) = outcome {
            taken.state.release(ips, ports);
            return Err(match error {
                AllocationError::Invalid(errors) => write.invalid(machinery::meta::name(new), errors),
                AllocationError::Exhausted(why) => ApiError::internal(why),
            });
        }
        if ips.is_empty() && ports.is_empty() {
            return Ok(None);
        }
        let state = Arc::clone(&self.state);
        Ok(Some(Undo::new(move || state.lock().release(ips, ports))))
    }
}

#[async_trait]
impl Hooks for ServiceAllocator {
    fn start(&self, core: &Arc<Core>) {
        let ranges = self.state.lock().networks.iter().map(|n| n.range).collect();
        tokio::spawn(crate::allocators::run(Arc::clone(core), ranges));
    }

    async fn begin_create(&self, write: &Write<'_>, object: &mut Value) -> Result<Option<Undo>, ApiError> {
        self.begin(write, object, None)
    }

    async fn begin_update(
        &self,
        write: &Write<'_>,
        new: &mut Value,
        old: &Value,
    ) -> Result<Option<Undo>, ApiError> {
        self.begin(write, new, Some(old))
    }

    async fn after_write(&self, _write: &Write<'_>, new: &Value, old: Option<&Value>) {
        let Some(old) = old else { return };
        let (ips, ports) = (held_ips(new), held_ports(new));
        let gone_ips = held_ips(old).into_iter().filter(|ip| !ips.contains(ip)).collect();
        let gone_ports = held_ports(old)
            .into_iter()
            .filter(|port| !ports.contains(port))
            .collect();
        self.state.lock().release(gone_ips, gone_ports);
    }

    async fn after_delete(&self, old: &Value) {
        self.state.lock().release(held_ips(old), held_ports(old));
    }
}

impl State {
    fn hold(&mut self, service: &Value) {
        for ip in held_ips(service) {
            if let Some((network, number)) = self.network(ip) {
                network.used.insert(number);
            }
        }
        self.used_ports.extend(held_ports(service));
    }

    fn release(&mut self, ips: Vec<IpAddr>, ports: Vec<i64>) {
        for ip in ips {
            if let Some((network, number)) = self.network(ip) {
                network.used.remove(&number);
            }
        }
        for port in ports {
            self.used_ports.remove(&port);
        }
    }

    fn network(&mut self, ip: IpAddr) -> Option<(&mut Network, u128)> {
        let network = self
            .networks
            .iter_mut()
            .find(|network| network.range.contains(&ip))?;
        Some((network, number_of(ip)))
    }
}

impl Network {
    fn new(range: IpNet) -> Self {
        let (first, last) = (number_of(range.network()), number_of(range.broadcast()));
        // The network's own address and, of IPv4, the broadcast address are never given.
        let last = if range.network().is_ipv4() {
            last.saturating_sub(1)
        } else {
            last
        };
        Self {
            range,
            first: first + 1,
            last,
            used: HashSet::new(),
        }
    }

    fn take(&mut self, number: u128) -> Result<(), String> {
        // The network's own and the broadcast address are of no range, by upstream's rules.
        if number < self.first || number > self.last {
            return Err(MISMATCHED.to_owned());
        }
        if self.used.insert(number) {
            Ok(())
        } else {
            Err(ALLOCATED_IP.to_owned())
        }
    }

    fn take_any(&mut self) -> Result<IpAddr, String> {
        let size = 1_u128.checked_shl(u32::from(self.range.max_prefix_len() - self.range.prefix_len()));
        let reserved = reserved_part(size.unwrap_or(u128::MAX), 16, 256);
        let middle = (self.first + reserved).min(self.last);
        let used = &self.used;
        let number = any_free(middle, self.last, |number| used.contains(&number))
            .or_else(|| {
                any_free(self.first, middle.saturating_sub(1), |number| {
                    used.contains(&number)
                })
            })
            .ok_or(FULL)?;
        self.used.insert(number);
        Ok(address_of(number, self.range))
    }
}

/// A write that takes what it needs, while nobody else does.
struct Taking<'a> {
    state: parking_lot::MutexGuard<'a, State>,
    ips: Vec<IpAddr>,
    ports: Vec<i64>,
}

impl Pool for Taking<'_> {
    fn families(&self) -> Vec<Family> {
        self.state
            .networks
            .iter()
            .map(|network| family(network.range.network()))
            .collect()
    }

    fn take_ip(&mut self, ip: IpAddr) -> Result<(), String> {
        let (network, number) = self.state.network(ip).ok_or(MISMATCHED)?;
        network.take(number)?;
        self.ips.push(ip);
        Ok(())
    }

    fn take_any_ip(&mut self, wanted: Family) -> Result<IpAddr, String> {
        let mut networks = self.state.networks.iter_mut();
        let network = networks
            .find(|network| family(network.range.network()) == wanted)
            .ok_or(FULL)?;
        let ip = network.take_any()?;
        self.ips.push(ip);
        Ok(ip)
    }

    fn take_port(&mut self, port: i64) -> Result<(), String> {
        let range = &self.state.ports;
        if !range.contains(&port) {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {}-{}",
                range.start(),
                range.end()
            ));
        }
        if !self.state.used_ports.insert(port) {
            return Err(ALLOCATED_PORT.to_owned());
        }
        self.ports.push(port);
        Ok(())
    }

    fn take_any_port(&mut self) -> Result<i64, String> {
        // Ports are positive.
        let (first, last) = (
            self.state.ports.start().unsigned_abs(),
            self.state.ports.end().unsigned_abs(),
        );
        let middle = first + u64::try_from(reserved_part(u128::from(last - first) + 1, 32, 128)).unwrap_or(0);
        let used = |port: u128| self.state.used_ports.contains(&(port as i64));
        let port = any_free(middle.into(), last.into(), used)
            .or_else(|| any_free(first.into(), u128::from(middle) - 1, used))
            .ok_or(FULL)? as i64;
        self.state.used_ports.insert(port);
        self.ports.push(port);
        Ok(port)
    }
}

/// How many of the first of a range are kept for those who name one.
fn reserved_part(size: u128, step: u128, most: u128) -> u128 {
    const LEAST: u128 = 16;
    if size <= LEAST {
        0
    } else {
        (size / step).clamp(LEAST, most)
    }
}

/// A free number of a range, the search beginning anywhere in it.
fn any_free(first: u128, last: u128, used: impl Fn(u128) -> bool) -> Option<u128> {
    if first > last {
        return None;
    }
    let start = machinery::chance::rng().random_range(first..=last);
    (start..=last).chain(first..start).find(|number| !used(*number))
}

fn family(ip: IpAddr) -> Family {
    if ip.is_ipv4() { IPV4 } else { IPV6 }
}

fn number_of(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn address_of(number: u128, range: IpNet) -> IpAddr {
    match range {
        // The number came from an address of this range.
        IpNet::V4(_) => Ipv4Addr::from(number as u32).into(),
        IpNet::V6(_) => Ipv6Addr::from(number).into(),
    }
}

fn decode(bytes: &[u8], ty: TypeId) -> Option<Value> {
    if bytes.starts_with(proto::MAGIC) {
        proto::decode_envelope(bytes, api::types(), ty).ok()
    } else {
        Some(json::decode(bytes, api::types(), ty).ok()?.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allocator() -> ServiceAllocator {
        ServiceAllocator::new(&["10.0.0.0/24".parse().unwrap()], NODE_PORTS)
    }

    fn service(spec: &str) -> Value {
        let text = format!(r#"{{"metadata":{{"name":"a"}},"spec":{spec}}}"#);
        json::decode_any(text.as_bytes()).unwrap().value
    }

    fn take(
        allocator: &ServiceAllocator,
        new: &mut Value,
        old: Option<&Value>,
    ) -> Result<(), AllocationError> {
        let mut taking = Taking {
            state: allocator.state.lock(),
            ips: Vec::new(),
            ports: Vec::new(),
        };
        allocate(new, old, &mut taking)
    }

    fn refused(error: AllocationError) -> String {
        match error {
            AllocationError::Invalid(errors) => errors[0].to_string(),
            AllocationError::Exhausted(why) => why,
        }
    }

    #[test]
    fn addresses_and_ports_are_given_once() {
        let allocator = allocator();
        let mut one = service(r#"{"type":"NodePort","ports":[{"port":80},{"port":81,"nodePort":30080}]}"#);
        take(&allocator, &mut one, None).unwrap();
        let ip = one.get_str_path(&["spec", "clusterIP"]).unwrap().to_owned();
        assert!(ip.starts_with("10.0.0.") && held_ports(&one).len() == 2);
        assert_eq!(one.get_str_path(&["spec", "ipFamilyPolicy"]), Some("SingleStack"));

        let mut same_ip = service(&format!(r#"{{"type":"ClusterIP","clusterIP":"{ip}"}}"#));
        let why = refused(take(&allocator, &mut same_ip, None).unwrap_err());
        let want = format!(
            r#"spec.clusterIPs: Invalid value: ["{ip}"]: failed to allocate IP {ip}: provided IP is already allocated"#
        );
        assert_eq!(why, want);
        for (spec, want) in [
            (
                r#"{"type":"NodePort","ports":[{"port":1,"nodePort":30080}]}"#,
                "spec.ports[0].nodePort: Invalid value: 30080: provided port is already allocated",
            ),
            (
                r#"{"type":"NodePort","ports":[{"port":1,"nodePort":80}]}"#,
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767",
            ),
            (
                r#"{"type":"ClusterIP","clusterIP":"10.0.0.0"}"#,
                r#"spec.clusterIPs: Invalid value: ["10.0.0.0"]: failed to allocate IP 10.0.0.0: the provided network does not match the current range"#,
            ),
            (
                r#"{"type":"ClusterIP","ipFamilyPolicy":"RequireDualStack"}"#,
                r#"spec.ipFamilyPolicy: Invalid value: "RequireDualStack": this cluster is not configured for dual-stack services"#,
            ),
        ] {
            assert_eq!(
                refused(take(&allocator, &mut service(spec), None).unwrap_err()),
                want
            );
        }
    }

    #[test]
    fn an_update_keeps_what_was_given() {
        let allocator = allocator();
        let mut old = service(r#"{"type":"NodePort","ports":[{"name":"a","port":80}]}"#);
        take(&allocator, &mut old, None).unwrap();
        let mut new =
            service(r#"{"type":"NodePort","ports":[{"name":"a","port":8080},{"name":"b","port":1}]}"#);
        take(&allocator, &mut new, Some(&old)).unwrap();
        assert_eq!(held_ips(&new), held_ips(&old));
        assert_eq!(held_ports(&new)[0], held_ports(&old)[0]);
        assert_eq!(held_ports(&new).len(), 2);
        let mut external = service(r#"{"type":"ExternalName","externalName":"x"}"#);
        take(&allocator, &mut external, Some(&new)).unwrap();
        assert!(held_ips(&external).is_empty() && held_ports(&external).is_empty());
    }

    #[test]
    fn a_range_runs_full_and_is_refilled() {
        let allocator = ServiceAllocator::new(&["10.0.0.0/29".parse().unwrap()], NODE_PORTS);
        let mut made = Vec::new();
        for _ in 0..6 {
            let mut one = service(r#"{"type":"ClusterIP"}"#);
            take(&allocator, &mut one, None).unwrap();
            made.push(one);
        }
        let why = refused(take(&allocator, &mut service(r#"{"type":"ClusterIP"}"#), None).unwrap_err());
        assert_eq!(
            why,
            "failed to allocate a serviceIP for Service \"a\": range is full"
        );
        allocator.state.lock().release(held_ips(&made[3]), Vec::new());
        assert!(take(&allocator, &mut service(r#"{"type":"ClusterIP"}"#), None).is_ok());
    }

    #[test]
    fn headless_services_have_families_but_no_address() {
        let mut headless = service(r#"{"type":"ClusterIP","clusterIP":"None","selector":{"a":"b"}}"#);
        take(&allocator(), &mut headless, None).unwrap();
        assert!(held_ips(&headless).is_empty());
        assert_eq!(
            headless.get_path(&["spec", "clusterIPs"]),
            Some(&Value::from(vec!["None"]))
        );
        assert_eq!(
            headless.get_path(&["spec", "ipFamilies"]),
            Some(&Value::from(vec!["IPv4"]))
        );
    }
}
