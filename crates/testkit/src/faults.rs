//! Faults between components and the API server, drawn from a seed: refusals, conflicts, slowness, watches that end.
//!
//! **Invariant:** the same seed draws the same faults for the same requests in the same order.
//! A request that is refused here has not reached the server, but for [`Kind::Lost`]: that one was done, and only the
//! answer is gone.

use client::{ApiService, Body, api_service};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tower::{Service as _, ServiceExt as _};

/// A source of faults; clones are the same one.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    on: AtomicBool,
    random: Mutex<SmallRng>,
    /// In a thousand requests.
    rate: u32,
    drawn: AtomicU64,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conflict,
    Unavailable,
    Slow(Duration),
    /// Done, but nobody is told.
    Lost,
    /// The watch ends after this time.
    Cut(Duration),
}

impl Faults {
    /// No faults until [`Self::start`].
    pub fn new(seed: u64, rate: u32) -> Self {
        Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            rate,
            drawn: AtomicU64::new(0),
        }))
    }

    pub fn start(&self) {
        self.0.on.store(true, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.0.on.store(false, Ordering::Relaxed);
    }

    /// How many faults there were.
    pub fn count(&self) -> u64 {
        self.0.drawn.load(Ordering::Relaxed)
    }

    /// The service with these faults in front of it.
    pub fn before(&self, service: ApiService) -> ApiService {
        let faults = self.clone();
        api_service(tower::service_fn(move |request: Request<Body>| {
            let (faults, service) = (faults.clone(), service.clone());
            async move { Ok::<_, Infallible>(faults.answer(service, request).await) }
        }))
    }

    fn draw(&self, request: &Request<Body>) -> Option<Kind> {
        if !self.0.on.load(Ordering::Relaxed) {
            return None;
        }
        let query = request.uri().query().unwrap_or("");
        let watch = query.contains("watch=true") || query.contains("watch=1");
        let mut random = self.0.random.lock();
        if watch {
            let cut = random.random_range(0..3) == 0;
            return cut.then(|| Kind::Cut(Duration::from_millis(random.random_range(1..60_000))));
        }
        if random.random_range(0..1000) >= self.0.rate {
            return None;
        }
        let writes = request.method() != Method::GET;
        Some(match random.random_range(0..4) {
            0 if matches!(*request.method(), Method::PUT | Method::PATCH) => Kind::Conflict,
            1 if writes => Kind::Lost,
            2 => Kind::Slow(Duration::from_millis(random.random_range(1..3000))),
            _ => Kind::Unavailable,
        })
    }

    async fn answer(&self, mut service: ApiService, request: Request<Body>) -> Response<Body> {
        let kind = self.draw(&request);
        if kind.is_some() {
            self.0.drawn.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(?kind, method = %request.method(), uri = %request.uri(), "fault");
        }
        match kind {
            Some(Kind::Conflict) => return refusal(StatusCode::CONFLICT, "Conflict"),
            Some(Kind::Unavailable) => {
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
            }
            Some(Kind::Slow(time)) => tokio::time::sleep(time).await,
            Some(Kind::Lost | Kind::Cut(_)) | None => {}
        }
        // The server's router answers everything.
        let ready = service.ready().await.unwrap_or_else(|never| match never {});
        let answer = ready.call(request).await.unwrap_or_else(|never| match never {});
        match kind {
            Some(Kind::Lost) => refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            Some(Kind::Cut(after)) => answer.map(|body| cut(body, after)),
            _ => answer,
        }
    }
}

fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
    let status = serde_json::json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault was injected", "reason": reason, "code": code.as_u16()});
    let body = Full::from(status.to_string()).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// The body until some time has passed, and then no more, as if the connection had been closed.
fn cut(body: Body, after: Duration) -> Body {
    let end = tokio::time::Instant::now() + after;
    let frames = futures::stream::unfold(body, move |mut body| async move {
        let frame = tokio::time::timeout_at(end, body.frame()).await.ok()??;
        Some((frame, body))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
