//! placeholder
use crate::pods::Engine;
use std::sync::Arc;
use tonic::Status;
pub(crate) struct Streaming;
impl Streaming {
    pub(crate) async fn start(
        _: Arc<Engine>,
        _: tokio::sync::watch::Receiver<bool>,
    ) -> std::io::Result<Streaming> {
        Ok(Streaming)
    }
    pub(crate) fn exec(&self, _: cri::v1::ExecRequest) -> Result<String, Status> {
        Err(Status::unknown(""))
    }
    pub(crate) fn attach(&self, _: cri::v1::AttachRequest) -> Result<String, Status> {
        Err(Status::unknown(""))
    }
    pub(crate) fn port_forward(&self, _: cri::v1::PortForwardRequest) -> Result<String, Status> {
        Err(Status::unknown(""))
    }
}
