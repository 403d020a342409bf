//! Tables, as `kubectl get` asks for them, and metadata alone.

use serde_json::json;

use super::{CONFIG_MAPS, WIDGETS, at, config_map, widget};
use crate::case::{Case, TABLE, case, get, post, watch};

const METADATA: &str =
    "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
const METADATA_LIST: &str =
    "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";

pub(crate) fn cases() -> Vec<Case> {
    vec![
        case(
            "table-of-a-custom-kind",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                get(WIDGETS).accept(TABLE),
                get(&at("a")).accept(TABLE),
                get(&format!("{WIDGETS}?includeObject=None")).accept(TABLE),
                get(&format!("{WIDGETS}?includeObject=Object")).accept(TABLE),
                get(&at("none")).accept(TABLE),
            ],
        )
        .without_ages(),
        case("table-empty", [get(WIDGETS).accept(TABLE)]),
        case(
            "table-builtin",
            [
                post(CONFIG_MAPS, config_map("a", json!({"k": "v"}))),
                get(&format!("{CONFIG_MAPS}/a")).accept(TABLE),
            ],
        )
        .without_ages(),
        case(
            "table-watch",
            [
                get(WIDGETS).keep("rv", "/metadata/resourceVersion"),
                post(WIDGETS, widget("a", json!({"size": 2}))),
                watch(&format!("{WIDGETS}?resourceVersion={{rv}}")).accept(TABLE),
            ],
        )
        .without_ages(),
        case(
            "metadata-alone",
            [
                post(WIDGETS, widget("a", json!({"size": 2}))),
                get(&at("a")).accept(METADATA),
                get(WIDGETS).accept(METADATA_LIST),
            ],
        ),
    ]
}
