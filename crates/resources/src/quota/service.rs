//! Services: counted, and their load balancers and node ports.

use super::{Amounts, Evaluator, amounts};
use jiff::Timestamp;
use machinery::Value;

const NAMES: [&str; 4] = [
    "count/services",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];

pub(super) struct Services;

impl Evaluator for Services {
    fn handles_update(&self, subresource: &str, _: &Value, _: &Value) -> bool {
        subresource.is_empty()
    }

    fn charges(&self, name: &str) -> bool {
        NAMES.contains(&name)
    }

    fn usage(&self, service: &Value, _: Timestamp) -> Amounts {
        let ports = service
            .get_path(&["spec", "ports"])
            .and_then(Value::as_array)
            .unwrap_or_default();
        let allocates = service
            .get_path(&["spec", "allocateLoadBalancerNodePorts"])
            .and_then(Value::as_bool)
            .unwrap_or(true);
        let given = |port: &&Value| port.get("nodePort").and_then(Value::as_i64).unwrap_or(0) != 0;
        let (balancers, node_ports) = match service.get_str_path(&["spec", "type"]) {
            Some("NodePort") => (0, ports.len()),
            Some("LoadBalancer") if allocates => (1, ports.len()),
            Some("LoadBalancer") => (1, ports.iter().filter(given).count()),
            _ => (0, 0),
        };
        let counts = [1, 1, balancers, node_ports as i64];
        NAMES
            .iter()
            .zip(counts)
            .map(|(name, number)| ((*name).to_owned(), amounts::count(number)))
            .collect()
    }
}
