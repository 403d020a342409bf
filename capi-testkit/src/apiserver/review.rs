//! Reviews: questions about access and identity that are asked as creates and stored nowhere.

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};

use super::{
    ApiServer, protobuf,
    request::{Target, Verb},
    serve::{Answer, Caller},
    status::StatusError,
};

/// One kind of review.
#[derive(Debug)]
pub(crate) struct Review {
    pub(crate) group: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) plural: &'static str,
}

pub(crate) const REVIEWS: [Review; 3] = [
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
    /// Answers a review. Everyone who came in may do everything, since there is no authorizer.
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
        object["status"] = match review.kind {
            "SelfSubjectReview" => {
                json!({"userInfo": {"username": caller.user, "groups": caller.groups}})
            }
            _ => json!({"allowed": true, "reason": "this server has no authorizer"}),
        };
        let body = Bytes::from(object.to_string());
        Ok(Answer {
            code: StatusCode::CREATED,
            ..Answer::json(body)
        })
    }
}
