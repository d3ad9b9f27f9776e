//! Faults between components and the API server, drawn from a seed: refusals, conflicts, slowness, answers that are lost,
//! watches that end or stall, and the death of a component between any two of its steps.
//!
//! **Invariant:** the same seed draws the same faults for the same requests in the same order.
//! A request that is refused here has not reached the server, but for [`Kind::Lost`]: that one was done, and only the
//! answer is gone. Nothing a component asks for after its death is done.

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
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tower::{Service as _, ServiceExt as _};

/// Whose requests they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Controllers,
    Scheduler,
    Nodes,
}

/// How long a watch stalls at most.
const LONGEST_STALL: Duration = Duration::from_secs(8);

/// A source of faults; clones are the same one.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    on: AtomicBool,
    random: Mutex<SmallRng>,
    rates: Rates,
    drawn: AtomicU64,
    /// When the answer to the creation of a pod was lost.
    lost: Mutex<Vec<Instant>>,
    deaths: Mutex<Option<UnboundedSender<Component>>>,
    /// What was asked for, while that is noted.
    noted: Mutex<Option<Vec<(Component, String)>>>,
}

/// How often something goes wrong.
#[derive(Debug, Default, Clone, Copy)]
pub struct Rates {
    /// In a thousand requests.
    pub requests: u32,
    /// Requests, on the average, before one of them is its component's last. 0: never.
    pub death: u32,
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Conflict,
    Unavailable,
    Slow(Duration),
    /// Done, but nobody is told.
    Lost,
    /// The component dies before the request reaches the server, or when it was done.
    Death {
        done: bool,
    },
    /// The watch ends after this time.
    Cut(Duration),
    /// The watch stalls now and then.
    Stalls,
}

impl Faults {
    /// No faults until [`Self::start`].
    pub fn new(seed: u64, rates: Rates) -> Self {
        Self(Arc::new(Shared {
            on: AtomicBool::new(false),
            random: Mutex::new(SmallRng::seed_from_u64(seed)),
            rates,
            drawn: AtomicU64::new(0),
            lost: Mutex::default(),
            deaths: Mutex::default(),
            noted: Mutex::default(),
        }))
    }

    pub fn start(&self) {
        self.0.on.store(true, Ordering::Relaxed);
    }

    pub fn stop(&self) {
        self.0.on.store(false, Ordering::Relaxed);
    }

    /// Notes every request from now on, faults or not.
    pub fn note_requests(&self) {
        *self.0.noted.lock() = Some(Vec::new());
    }

    /// Whose requests there were since [`Self::note_requests`], and what they asked for.
    pub fn noted(&self) -> Vec<(Component, String)> {
        self.0.noted.lock().take().unwrap_or_default()
    }

    /// How many faults there were.
    pub fn count(&self) -> u64 {
        self.0.drawn.load(Ordering::Relaxed)
    }

    /// How many pods may have been created since then that their creator was not told of.
    pub fn lost_since(&self, since: Instant) -> usize {
        let lost = self.0.lost.lock();
        lost.iter().rev().take_while(|at| **at >= since).count()
    }

    /// Who is told of deaths.
    pub(crate) fn announce_deaths(&self, to: UnboundedSender<Component>) {
        *self.0.deaths.lock() = Some(to);
    }

    /// The service with these faults in front of it, as one life of a component sees it.
    pub fn before(&self, service: ApiService, component: Component, life: CancellationToken) -> ApiService {
        let faults = self.clone();
        api_service(tower::service_fn(move |request: Request<Body>| {
            let (faults, service, life) = (faults.clone(), service.clone(), life.clone());
            async move { Ok::<_, Infallible>(faults.live(service, component, life, request).await) }
        }))
    }

    async fn live(
        &self,
        service: ApiService,
        component: Component,
        life: CancellationToken,
        request: Request<Body>,
    ) -> Response<Body> {
        let watch = is_watch(&request);
        if let Some(noted) = &mut *self.0.noted.lock() {
            noted.push((component, format!("{} {}", request.method(), request.uri())));
        }
        let answer = tokio::select! {
            biased;
            () = life.cancelled() => return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable"),
            answer = self.answer(service, component, &life, request) => answer,
        };
        if watch {
            answer.map(|body| until(body, life))
        } else {
            answer
        }
    }

    fn draw(&self, request: &Request<Body>, component: Component) -> Option<Kind> {
        if !self.0.on.load(Ordering::Relaxed) {
            return None;
        }
        let mut random = self.0.random.lock();
        if is_watch(request) {
            return match random.random_range(0..3) {
                0 => Some(Kind::Cut(Duration::from_millis(random.random_range(1..60_000)))),
                1 => Some(Kind::Stalls),
                _ => None,
            };
        }
        if component != Component::Nodes
            && self.0.rates.death > 0
            && random.random_range(0..self.0.rates.death) == 0
        {
            let done = random.random_range(0..2) == 0;
            return Some(Kind::Death { done });
        }
        if random.random_range(0..1000) >= self.0.rates.requests {
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

    async fn answer(
        &self,
        mut service: ApiService,
        component: Component,
        life: &CancellationToken,
        request: Request<Body>,
    ) -> Response<Body> {
        let kind = self.draw(&request, component);
        if kind.is_some() {
            self.0.drawn.fetch_add(1, Ordering::Relaxed);
            tracing::trace!(?kind, ?component, method = %request.method(), uri = %request.uri(), "fault");
        }
        let makes_pod = request.method() == Method::POST && request.uri().path().ends_with("/pods");
        match kind {
            Some(Kind::Conflict) => return refusal(StatusCode::CONFLICT, "Conflict"),
            Some(Kind::Unavailable) => {
                return refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable");
            }
            Some(Kind::Slow(time)) => tokio::time::sleep(time).await,
            Some(Kind::Death { done: false }) => return self.die(component, life),
            _ => {}
        }
        // The server's router answers everything.
        let ready = service.ready().await.unwrap_or_else(|never| match never {});
        let answer = ready.call(request).await.unwrap_or_else(|never| match never {});
        if makes_pod && matches!(kind, Some(Kind::Lost | Kind::Death { .. })) {
            self.0.lost.lock().push(Instant::now());
        }
        match kind {
            Some(Kind::Lost) => refusal(StatusCode::GATEWAY_TIMEOUT, "Timeout"),
            Some(Kind::Death { .. }) => self.die(component, life),
            Some(Kind::Cut(after)) => answer.map(|body| cut(body, after)),
            Some(Kind::Stalls) => answer.map(|body| self.stalling(body)),
            _ => answer,
        }
    }

    fn die(&self, component: Component, life: &CancellationToken) -> Response<Body> {
        life.cancel();
        if let Some(deaths) = &*self.0.deaths.lock() {
            // Nobody listens any more when the cluster has ended.
            let _ = deaths.send(component);
        }
        refusal(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable")
    }

    /// The body, of which nothing arrives for a few seconds now and then, and then all at once.
    fn stalling(&self, body: Body) -> Body {
        let start = (body, self.clone(), self.next_stall());
        let frames = futures::stream::unfold(start, |(mut body, faults, mut stall)| async move {
            let frame = body.frame().await?;
            if let Some((from, to)) = stall {
                let now = Instant::now();
                if now >= from {
                    if now < to {
                        tokio::time::sleep_until(to).await;
                    }
                    stall = faults.next_stall();
                }
            }
            Some((frame, (body, faults, stall)))
        });
        http_body_util::StreamBody::new(frames).boxed_unsync()
    }

    fn next_stall(&self) -> Option<(Instant, Instant)> {
        if !self.0.on.load(Ordering::Relaxed) {
            return None;
        }
        let mut random = self.0.random.lock();
        let from = Instant::now() + Duration::from_secs(random.random_range(2..120));
        let longest = u64::try_from(LONGEST_STALL.as_millis()).unwrap_or(u64::MAX);
        Some((
            from,
            from + Duration::from_millis(random.random_range(1..longest)),
        ))
    }
}

fn is_watch(request: &Request<Body>) -> bool {
    let query = request.uri().query().unwrap_or("");
    query.contains("watch=true") || query.contains("watch=1")
}

pub(crate) fn refusal(code: StatusCode, reason: &str) -> Response<Body> {
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
    let end = Instant::now() + after;
    let frames = futures::stream::unfold(body, move |mut body| async move {
        let frame = tokio::time::timeout_at(end, body.frame()).await.ok()??;
        Some((frame, body))
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}

/// The body until its reader has died.
fn until(body: Body, life: CancellationToken) -> Body {
    let frames = futures::stream::unfold(body, move |mut body| {
        let life = life.clone();
        async move {
            let frame = tokio::select! {
                biased;
                () = life.cancelled() => return None,
                frame = body.frame() => frame?,
            };
            Some((frame, body))
        }
    });
    http_body_util::StreamBody::new(frames).boxed_unsync()
}
