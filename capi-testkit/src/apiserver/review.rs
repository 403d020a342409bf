//! Reviews: questions about access and identity that are asked as creates and stored nowhere.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    ApiServer, User,
    access::Access,
    metadata::invalid,
    protobuf,
    request::{Target, Verb},
    serve::{Answer, Caller},
    status::{StatusError, Subject},
};

/// One kind of review.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const REVIEWS: [Review; 5] = [
    Review {
        group: "authorization.k8s.io",
        kind: "SelfSubjectAccessReview",
        plural: "selfsubjectaccessreviews",
    },
    Review {
        group: "authorization.k8s.io",
        kind: "SubjectAccessReview",
        plural: "subjectaccessreviews",
    },
    Review {
        group: "authorization.k8s.io",
        kind: "SelfSubjectRulesReview",
        plural: "selfsubjectrulesreviews",
    },
    Review {
        group: "authentication.k8s.io",
        kind: "TokenReview",
        plural: "tokenreviews",
    },
    Review {
        group: "authentication.k8s.io",
        kind: "SelfSubjectReview",
        plural: "selfsubjectreviews",
    },
];

impl Review {
    pub(crate) fn find(target: &Target) -> Option<&'static Self> {
        let found = REVIEWS.iter().find(|review| {
            review.group == target.group && review.plural == target.plural && target.version == "v1"
        });
        found.filter(|_| target.subresource.is_empty() && target.name.is_empty())
    }
}

impl ApiServer {
    /// Answers a review.
    pub(super) fn review(
        &self,
        review: &Review,
        caller: &Caller,
        verb: Verb,
        content_type: &str,
        body: &Bytes,
    ) -> Result<Answer, StatusError> {
        if verb != Verb::Create {
            return Err(StatusError::method_not_allowed());
        }
        let mut object: Value = if content_type.starts_with(protobuf::MEDIA_TYPE) {
            protobuf::decode(review.kind, body)?
        } else {
            serde_json::from_slice(body)
                .map_err(|error| StatusError::bad_request(error.to_string()))?
        };
        object["kind"] = review.kind.into();
        object["apiVersion"] = format!("{}/v1", review.group).into();
        object["status"] = self.review_status(review, caller, &object["spec"])?;
        let body = Bytes::from(object.to_string());
        Ok(Answer {
            code: StatusCode::CREATED,
            ..Answer::json(body)
        })
    }

    fn review_status(
        &self,
        review: &Review,
        caller: &Caller,
        spec: &Value,
    ) -> Result<Value, StatusError> {
        let text = |field: &str| spec[field].as_str().unwrap_or_default();
        let status = match review.kind {
            "SelfSubjectReview" => {
                json!({"userInfo": {"username": caller.user, "groups": caller.groups}})
            }
            "TokenReview" => match self.by_token(text("token")) {
                Some(caller) => json!({
                    "authenticated": true,
                    "user": {"username": caller.user, "groups": caller.groups},
                }),
                None => json!({"user": {}, "error": "invalid bearer token"}),
            },
            "SelfSubjectRulesReview" => {
                let rules = self.rules_of(caller, text("namespace"));
                let (paths, resources): (Vec<_>, Vec<_>) = rules
                    .into_iter()
                    .partition(|rule| rule["nonResourceURLs"].is_array());
                json!({
                    "resourceRules": resources, "nonResourceRules": paths, "incomplete": false,
                })
            }
            "SubjectAccessReview" => {
                let groups = spec["groups"].as_array().into_iter().flatten();
                let groups = groups.into_iter().filter_map(Value::as_str);
                let user = groups.fold(User::new(text("user")), User::in_group);
                let mut subject = user.caller(text("user"));
                // The review names all groups; nothing is added.
                subject.groups = user.groups().to_vec();
                self.access_status(review, &subject, spec)?
            }
            _ => self.access_status(review, caller, spec)?,
        };
        Ok(status)
    }

    fn access_status(
        &self,
        review: &Review,
        caller: &Caller,
        spec: &Value,
    ) -> Result<Value, StatusError> {
        let access = Access::of_review(spec).ok_or_else(|| {
            let detail =
                "exactly one of nonResourceAttributes or resourceAttributes must be specified";
            let error = invalid(
                "spec.resourceAttributes",
                &spec["resourceAttributes"],
                detail,
            );
            let subject = Subject {
                group: review.group,
                resource: review.kind,
                name: "",
            };
            StatusError::invalid(subject, &[error])
        })?;
        let decision = self.authorize(caller, &access);
        let mut status = json!({"allowed": decision.allowed});
        if !decision.reason.is_empty() {
            status["reason"] = decision.reason.into();
        }
        Ok(status)
    }
}
