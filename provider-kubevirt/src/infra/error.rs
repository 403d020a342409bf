//! What the infra cluster can answer, and what the engine should do about it.

use std::time::Duration;

use capi_contract::{Class, Classify};

/// When to come back to a full quota: as often as a person would want to see that it helped.
const QUOTA_RECHECK: Duration = Duration::from_secs(30);

/// When to come back if the server asks for patience without saying how long.
const BUSY_RECHECK: Duration = Duration::from_secs(5);

/// When to come back if KubeVirt, or the namespace, is not there.
const MISSING_RECHECK: Duration = Duration::from_secs(30);

/// A request to the infra cluster that did not do what it was for.
#[derive(Debug, thiserror::Error)]
#[error("{attempt} in the infra cluster: {}", said(source))]
pub struct InfraError {
    /// What was attempted: verb, kind, namespace and name.
    attempt: String,
    /// What came back. Not the error's source, because the message already says it.
    source: Box<kube::Error>,
}

impl InfraError {
    pub(crate) fn new(attempt: String, source: kube::Error) -> Self {
        let source = Box::new(source);
        Self { attempt, source }
    }

    /// HTTP code of the answer, where there was one.
    pub fn code(&self) -> Option<u16> {
        match self.source.as_ref() {
            kube::Error::Api(status) => Some(status.code),
            _ => None,
        }
    }

    fn has_reason(&self, reason: &str) -> bool {
        matches!(self.source.as_ref(), kube::Error::Api(status) if status.reason == reason)
    }

    /// Whether something of that name is there already.
    pub fn is_taken(&self) -> bool {
        self.has_reason("AlreadyExists")
    }

    /// Whether the server does not know the kind.
    pub fn is_unserved(&self) -> bool {
        self.code() == Some(404) && !self.has_reason("NotFound")
    }

    /// Whether the object itself is not there, as opposed to its kind or the whole path.
    pub fn is_absent(&self) -> bool {
        self.code() == Some(404) && self.has_reason("NotFound")
    }
}

/// The server's own words; of a request that was not answered only what kind of failure it was, since
/// the details differ from try to try (CO-07).
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if status.code == 404 && status.reason != "NotFound" => {
            "it does not know the kind; install KubeVirt (and CDI for DataVolumes) there".to_owned()
        }
        kube::Error::Api(status) => status.message.clone(),
        kube::Error::Auth(_) => "the credentials cannot be used".to_owned(),
        kube::Error::SerdeError(error) => format!("its answer cannot be read: {error}"),
        _ => "it does not answer".to_owned(),
    }
}

impl Classify for InfraError {
    fn class(&self) -> Class {
        let status = match self.source.as_ref() {
            kube::Error::Api(status) => status,
            kube::Error::Auth(_) => return Class::Credentials,
            kube::Error::SerdeError(_) => return Class::Terminal,
            _ => return Class::Transient,
        };
        match status.code {
            403 if status.message.contains("exceeded quota") => Class::RetryAfter(QUOTA_RECHECK),
            403 if status.message.contains("admission webhook") => Class::Misconfigured,
            401 | 403 => Class::Credentials,
            404 => Class::RetryAfter(MISSING_RECHECK),
            409 => Class::Conflict,
            400 | 405 | 413 | 422 => Class::Misconfigured,
            429 => {
                let details = status.details.as_ref();
                let wait = details.map(|d| u64::from(d.retry_after_seconds));
                let wait = wait.filter(|seconds| *seconds > 0);
                Class::RetryAfter(wait.map_or(BUSY_RECHECK, Duration::from_secs))
            }
            _ => Class::Transient,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use rstest::rstest;

    use super::*;

    fn answered(code: u16, reason: &str, message: &str) -> InfraError {
        let status = Status::failure(message, reason).with_code(code);
        InfraError::new(
            "create VirtualMachine ns/m".into(),
            kube::Error::Api(Box::new(status)),
        )
    }

    #[rstest]
    #[case(401, "Unauthorized", "Unauthorized", Class::Credentials)]
    #[case(403, "Forbidden", "cannot create", Class::Credentials)]
    #[case(
        403,
        "Forbidden",
        "exceeded quota: q",
        Class::RetryAfter(QUOTA_RECHECK)
    )]
    #[case(
        403,
        "Forbidden",
        "admission webhook \"x\" denied",
        Class::Misconfigured
    )]
    #[case(
        404,
        "NotFound",
        "namespaces \"ns\" not found",
        Class::RetryAfter(MISSING_RECHECK)
    )]
    #[case(409, "AlreadyExists", "exists", Class::Conflict)]
    #[case(409, "Conflict", "object was modified", Class::Conflict)]
    #[case(
        422,
        "Invalid",
        "spec.template.spec.domain: required",
        Class::Misconfigured
    )]
    #[case(429, "TooManyRequests", "later", Class::RetryAfter(BUSY_RECHECK))]
    #[case(500, "InternalError", "etcd", Class::Transient)]
    fn answers_have_the_class_that_helps(
        #[case] code: u16,
        #[case] reason: &str,
        #[case] message: &str,
        #[case] class: Class,
    ) {
        let error = answered(code, reason, message);
        assert_eq!(error.class(), class);
        let text = error.to_string();
        assert!(text.starts_with("create VirtualMachine ns/m in the infra cluster: "));
    }

    #[test]
    fn r5_a_kind_that_is_not_served_is_no_absent_object() {
        let unserved = answered(404, "Failed to parse error data", "404 page not found");
        assert!(!unserved.is_absent());
        assert!(
            unserved.to_string().contains("install KubeVirt"),
            "{unserved}"
        );
        assert!(answered(404, "NotFound", "virtualmachines \"m\" not found").is_absent());
    }
}
