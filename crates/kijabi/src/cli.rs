//! The command line: what each command takes. Flags that k3s users know keep their names.

use clap::{Args, Parser, Subcommand};
use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;

/// Kubernetes v1.36 in one binary.
#[derive(Debug, Parser)]
#[command(name = "kijabi", version, arg_required_else_help = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a cluster on this machine, in the foreground (pods live on when it stops)
    Up(Box<Up>),
    /// Stop every pod and remove all that this instance made on the host
    Down(Down),
    /// Say what runs
    Status(DataDir),
    /// Try what the kernel must offer, and say in plain words what it lacks
    Check,
    /// Serve the container runtime alone (CRI on a socket), for another kubelet or for tests
    Runtime(Runtime),
    /// Bring images onto this node, list and remove them
    Image(Image),
    /// Start a throw-away cluster with a sample application, until Ctrl-C
    Demo(Demo),
    /// The process that holds a pod (started by the runtime)
    #[command(hide = true, disable_help_flag = true)]
    Shim {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The sample application of `demo`
    #[command(hide = true)]
    DemoApp,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct DataDir {
    /// Directory that holds all state of this instance
    #[arg(
        short = 'd',
        long,
        env = "KIJABI_DATA_DIR",
        default_value = "/var/lib/kijabi",
        value_name = "DIR",
        global = true
    )]
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Up {
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Address the API server listens on
    #[arg(long, default_value = "0.0.0.0", value_name = "IP")]
    pub bind_address: IpAddr,
    /// Port the API server listens on
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// Port of the kubelet's API
    #[arg(long, default_value_t = 10250, value_name = "PORT")]
    pub kubelet_port: u16,
    /// Where to write the administrator's kubeconfig [default: <DATA_DIR>/kubeconfig.yaml]
    #[arg(short = 'o', long, value_name = "FILE")]
    pub write_kubeconfig: Option<PathBuf>,
    /// Mode of the kubeconfig file
    #[arg(long, default_value = "600", value_name = "OCTAL", value_parser = octal)]
    pub write_kubeconfig_mode: u32,
    /// Range of the pods' addresses
    #[arg(long, default_value = "10.42.0.0/16", value_name = "CIDR")]
    pub cluster_cidr: IpNet,
    /// Range of the Services' addresses
    #[arg(long, default_value = "10.43.0.0/16", value_name = "CIDR")]
    pub service_cidr: IpNet,
    /// Range of the node ports
    #[arg(long, default_value = "30000-32767", value_name = "FROM-TO", value_parser = port_range)]
    pub service_node_port_range: (u16, u16),
    /// Address of cluster DNS [default: the tenth of the service range]
    #[arg(long, value_name = "IP")]
    pub cluster_dns: Option<IpAddr>,
    /// Domain of cluster DNS
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// Name of this node [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Address this node announces [default: the one on the way to the default gateway]
    #[arg(short = 'i', long, value_name = "IP")]
    pub node_ip: Option<IpAddr>,
    /// Another name or address the API server's certificate is for
    #[arg(long, value_name = "NAME")]
    pub tls_san: Vec<String>,
    /// etcd members to keep the cluster in, instead of the embedded store: https://HOST:PORT,…
    #[arg(
        long,
        alias = "etcd-servers",
        env = "KIJABI_DATASTORE_ENDPOINT",
        value_name = "URLS",
        value_delimiter = ','
    )]
    pub datastore_endpoint: Vec<String>,
    /// Authority that vouches for etcd
    #[arg(long, alias = "etcd-cafile", value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Certificate to show to etcd
    #[arg(
        long,
        alias = "etcd-certfile",
        value_name = "FILE",
        requires = "datastore_keyfile"
    )]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate
    #[arg(
        long,
        alias = "etcd-keyfile",
        value_name = "FILE",
        requires = "datastore_certfile"
    )]
    pub datastore_keyfile: Option<PathBuf>,
    /// Prefix of the cluster's keys in etcd
    #[arg(long, default_value = "/registry", value_name = "PREFIX")]
    pub etcd_prefix: String,
    /// Feature gates of the API server, GATE=true or GATE=false
    #[arg(long, value_name = "GATES", value_delimiter = ',')]
    pub feature_gates: Vec<String>,
    /// Admission plugins to use beside the default ones
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub enable_admission_plugins: Vec<String>,
    /// Default admission plugins not to use
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub disable_admission_plugins: Vec<String>,
    /// Controllers to run: `*` for all that are on by default, NAME for one, -NAME for all but one
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        default_value = "*",
        allow_hyphen_values = true
    )]
    pub controllers: Vec<String>,
    /// Run no controller: another controller manager does
    #[arg(long)]
    pub disable_controller_manager: bool,
    /// Run no scheduler: another one does
    #[arg(long)]
    pub disable_scheduler: bool,
    /// Let scheduler and controllers run only while this process holds their leases
    #[arg(long)]
    pub leader_elect: bool,
    #[command(flatten)]
    pub access: crate::access::AccessFlags,
    /// CRI socket of another runtime (containerd), instead of the embedded one
    #[arg(long, value_name = "PATH")]
    pub container_runtime_endpoint: Option<PathBuf>,
    /// File with a KubeletConfiguration (kubelet.config.k8s.io/v1beta1)
    #[arg(long, value_name = "FILE")]
    pub kubelet_config: Option<PathBuf>,
    /// File, or directory of files, with a CredentialProviderConfig (kubelet.config.k8s.io/v1)
    #[arg(long, value_name = "PATH", requires = "image_credential_provider_bin_dir")]
    pub image_credential_provider_config: Option<PathBuf>,
    /// Directory of the programs which that configuration names
    #[arg(long, value_name = "DIR", requires = "image_credential_provider_config")]
    pub image_credential_provider_bin_dir: Option<PathBuf>,
    /// Registries, host or host:port, that may be spoken to in plain HTTP (loopback always may)
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Directory of `<host>/hosts.toml`: mirrors and authorities of registries, as containerd's certs.d
    #[arg(long, default_value = "/etc/kijabi/certs.d", value_name = "DIR")]
    pub registry_config_path: PathBuf,
    /// Detail of the log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, env = "KIJABI_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Runtime {
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Where to serve [default: <DATA_DIR>/agent/cri.sock]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Range of the pods' addresses on this node, until a kubelet names another
    #[arg(long, default_value = "10.42.0.0/24", value_name = "CIDR")]
    pub pod_cidr: IpNet,
    /// Registries, host or host:port, that may be spoken to in plain HTTP (loopback always may)
    #[arg(long, value_name = "HOST")]
    pub insecure_registry: Vec<String>,
    /// Directory of `<host>/hosts.toml`: mirrors and authorities of registries, as containerd's certs.d
    #[arg(long, default_value = "/etc/kijabi/certs.d", value_name = "DIR")]
    pub registry_config_path: PathBuf,
    /// Detail of the log: error, warn, info, debug, trace, or a tracing filter
    #[arg(long, env = "KIJABI_LOG", default_value = "warn", value_name = "FILTER")]
    pub log: String,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Down {
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Remove the data too: store, images, certificates
    #[arg(long)]
    pub purge: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Demo {
    /// Directory of the throw-away cluster [default: a new one under the temporary directory]
    #[arg(short = 'd', long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the API server (the next free one is taken when it is in use)
    #[arg(long, default_value_t = 6443, value_name = "PORT")]
    pub https_listen_port: u16,
    /// Leave as soon as the sample has answered, instead of waiting for Ctrl-C
    #[arg(long)]
    pub exit: bool,
}

#[derive(Debug, Clone, Args)]
pub(crate) struct Image {
    #[command(flatten)]
    pub data_dir: DataDir,
    #[command(subcommand)]
    pub command: ImageCommand,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum ImageCommand {
    /// Import a docker-archive, or an OCI layout (archive or directory); `-` reads standard input
    Import {
        path: PathBuf,
        /// Name to give an image that carries none
        #[arg(long)]
        name: Option<String>,
    },
    /// List the images on this node
    #[command(alias = "ls")]
    List,
    /// Pull an image from its registry
    Pull {
        image: String,
        /// Credentials, USER:PASSWORD
        #[arg(long, value_name = "USER:PASSWORD")]
        creds: Option<String>,
    },
    /// Read every stored image, repair what is damaged, and say what was
    Check,
    /// Remove images by name or id
    #[command(alias = "rm")]
    Remove {
        #[arg(required = true)]
        images: Vec<String>,
    },
}

impl Up {
    /// What `kijabi up` without a flag means.
    pub(crate) fn usual() -> Self {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            up: Up,
        }
        Alone::parse_from(["up"]).up
    }
}

fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o777 => Ok(mode),
        _ => Err("a file mode in octal is needed, such as 600 or 644".to_owned()),
    }
}

fn port_range(text: &str) -> Result<(u16, u16), String> {
    text.split_once('-')
        .and_then(|(from, to)| Some((from.parse::<u16>().ok()?, to.parse::<u16>().ok()?)))
        .filter(|(from, to)| *from > 0 && from <= to)
        .ok_or_else(|| "two ports are needed, such as 30000-32767".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_are_parsed_at_the_edge() {
        let parse = |args: &[&str]| Cli::try_parse_from([&["kijabi", "up"], args].concat());
        assert!(parse(&["--cluster-cidr", "10.0.0.0"]).is_err());
        assert!(parse(&["--service-node-port-range", "9-1"]).is_err());
        assert!(parse(&["--write-kubeconfig-mode", "999"]).is_err());
        assert!(parse(&["--cluster-dns", "10.43.0.99", "--cluster-cidr", "10.9.0.0/16"]).is_ok());
    }
}
