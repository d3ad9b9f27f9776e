//! Probes, lifecycle hooks and what they do.

use super::Scope;
use crate::At;
use crate::check;
use crate::fields::{int, list, present, text, text_at};
use machinery::Value;
use machinery::field::ErrorList;

/// Judges the hooks and the three probes of a container.
pub(super) fn lifecycle_and_probes(
    container: &Value,
    scope: &Scope<'_>,
    at: &At<'_>,
    errors: &mut ErrorList,
) {
    if let Some(lifecycle) = present(container, "lifecycle") {
        let at = at.child("lifecycle");
        for hook in ["postStart", "preStop"] {
            if let Some(handler) = present(lifecycle, hook) {
                self::handler(handler, &HOOKS, scope.grace, &at.child(hook), errors);
            }
        }
        if let Some(signal) = present(lifecycle, "stopSignal").and_then(Value::as_str) {
            stop_signal(signal, scope.spec, &at.child("stopSignal"), errors);
        }
    }
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = present(container, kind) {
            self::probe(probe, kind, scope.grace, &at.child(kind), errors);
        }
    }
}

fn probe(probe: &Value, kind: &str, grace: Option<i64>, at: &At<'_>, errors: &mut ErrorList) {
    handler(probe, &PROBES, grace, at, errors);
    for field in [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ] {
        check::not_negative(int(probe, field).unwrap_or(0), &at.child(field), errors);
    }
    let seconds = int(probe, "terminationGracePeriodSeconds");
    let at_seconds = at.child("terminationGracePeriodSeconds");
    if let Some(seconds) = seconds.filter(|seconds| *seconds <= 0) {
        errors.push(at_seconds.invalid(seconds, "must be greater than 0"));
    }
    if kind == "readinessProbe" {
        if let Some(seconds) = seconds {
            errors.push(at_seconds.invalid(seconds, "must not be set for readinessProbes"));
        }
        return;
    }
    let threshold = int(probe, "successThreshold").unwrap_or(0);
    if threshold != 1 {
        errors.push(at.child("successThreshold").invalid(threshold, "must be 1"));
    }
}

/// What a probe can do, in upstream's order.
const PROBES: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
/// What a hook can do.
const HOOKS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];

fn handler(handler: &Value, kinds: &[&str], grace: Option<i64>, at: &At<'_>, errors: &mut ErrorList) {
    let mut handlers = 0;
    for kind in kinds {
        let Some(action) = present(handler, kind) else {
            continue;
        };
        handlers += 1;
        let at = at.child(kind);
        if handlers > 1 {
            errors.push(at.forbidden("may not specify more than 1 handler type"));
            continue;
        }
        match *kind {
            "exec" if list(action, "command").is_empty() => errors.push(at.child("command").required("")),
            "httpGet" => http_get(action, &at, errors),
            "tcpSocket" | "grpc" => check::port_or_name(action.get("port"), &at.child("port"), errors),
            "sleep" => sleep(action, grace, &at, errors),
            _ => {}
        }
    }
    if handlers == 0 {
        errors.push(at.required("must specify a handler type"));
    }
}

fn http_get(action: &Value, at: &At<'_>, errors: &mut ErrorList) {
    if text(action, "path").is_empty() {
        errors.push(at.child("path").required(""));
    }
    check::port_or_name(action.get("port"), &at.child("port"), errors);
    check::one_of(
        text(action, "scheme"),
        &["HTTP", "HTTPS"],
        &at.child("scheme"),
        errors,
    );
    for header in list(action, "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
            let why = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', \
                       regex used for validation is '[-A-Za-z0-9]+')";
            errors.push(at.child("httpHeaders").invalid(name, why));
        }
    }
}

fn sleep(action: &Value, grace: Option<i64>, at: &At<'_>, errors: &mut ErrorList) {
    let seconds = int(action, "seconds").unwrap_or(0);
    if let Some(grace) = grace
        && (seconds < 0 || seconds > grace)
    {
        let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
        errors.push(at.invalid(seconds, why));
    }
}

fn stop_signal(signal: &str, spec: &Value, at: &At<'_>, errors: &mut ErrorList) {
    match text_at(spec, &["os", "name"]) {
        "" => errors.push(at.forbidden("may not be set for containers with empty `spec.os.name`")),
        "windows" => check::one_of(signal, &["SIGKILL", "SIGTERM"], at, errors),
        "linux" => check::one_of(signal, &SIGNALS, at, errors),
        _ => {}
    }
}

#[rustfmt::skip]
const SIGNALS: [&str; 65] = [
    "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT", "SIGIO",
    "SIGIOT", "SIGKILL", "SIGPIPE", "SIGPOLL", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGRTMAX", "SIGRTMAX-1",
    "SIGRTMAX-10", "SIGRTMAX-11", "SIGRTMAX-12", "SIGRTMAX-13", "SIGRTMAX-14", "SIGRTMAX-2", "SIGRTMAX-3",
    "SIGRTMAX-4", "SIGRTMAX-5", "SIGRTMAX-6", "SIGRTMAX-7", "SIGRTMAX-8", "SIGRTMAX-9", "SIGRTMIN", "SIGRTMIN+1",
    "SIGRTMIN+10", "SIGRTMIN+11", "SIGRTMIN+12", "SIGRTMIN+13", "SIGRTMIN+14", "SIGRTMIN+15", "SIGRTMIN+2",
    "SIGRTMIN+3", "SIGRTMIN+4", "SIGRTMIN+5", "SIGRTMIN+6", "SIGRTMIN+7", "SIGRTMIN+8", "SIGRTMIN+9", "SIGSEGV",
    "SIGSTKFLT", "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1",
    "SIGUSR2", "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ",
];
