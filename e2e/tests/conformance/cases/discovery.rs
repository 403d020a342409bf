//! What a client finds out before its first request.

use crate::case::{Case, case, get};

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "discovery-of-a-group",
            [
                get("/apis/example.com"),
                get("/apis/example.com/v1"),
                get("/apis/example.com/v2"),
                get("/apis/none.example.com"),
                get("/apis/none.example.com/v1"),
            ],
        ),
        case("discovery-of-core", [get("/api")]).without_addresses(),
        case("health", [get("/healthz"), get("/readyz"), get("/livez")]),
    ]
}
