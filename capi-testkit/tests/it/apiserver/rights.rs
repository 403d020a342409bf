//! Role based access control, reviews, tokens and impersonation.

use std::time::Duration;

use capi_testkit::apiserver::{ApiServer, Authorization, User};
use http::Request;
use serde_json::{Value, json};

use super::{
    raw::{MAPS, Raw, map},
    widgets,
};

const JSON: &str = "application/json";
const MERGE: &str = "application/merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

/// A server whose rules decide, on which someone has all rights.
fn guarded() -> (ApiServer, Raw) {
    let server = ApiServer::builder()
        .seed(1)
        .authorization(Authorization::Rbac)
        .build();
    server
        .install_crds([widgets()])
        .expect("the definition is valid");
    let admin = Raw::new(&server);
    (server, admin)
}

async fn create(admin: &Raw, path: &str, object: Value) {
    let got = admin.post(path, &object).await;
    assert_eq!(got.code, 201, "{}", got.message());
}

/// Rules for the service account `default/robot`, in the namespace.
async fn grant(admin: &Raw, rules: Value) {
    let (metadata, group) = (json!({"name": "robot"}), "rbac.authorization.k8s.io");
    let role = json!({"metadata": metadata, "rules": rules});
    create(admin, &format!("{RBAC}/namespaces/default/roles"), role).await;
    let binding = json!({
        "metadata": metadata,
        "roleRef": {"apiGroup": group, "kind": "Role", "name": "robot"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": "default"}],
    });
    create(
        admin,
        &format!("{RBAC}/namespaces/default/rolebindings"),
        binding,
    )
    .await;
}

fn robot() -> User {
    User::service_account("default", "robot")
}

const WIDGET: &str = "/apis/test.io/v1/namespaces/default/widgets/w";
const HERE: &str = "in the namespace \"default\"";

/// What of a refusal names its subject, the right and the place.
type Refusal = (&'static str, &'static str, &'static str);

/// Requests of the service account, and the refusals of those it has no right to.
const REQUESTS: [(&str, &str, Option<Refusal>); 11] = [
    ("GET", "/api/v1/namespaces/default/configmaps/a", None),
    ("GET", MAPS, None),
    ("PATCH", "/api/v1/namespaces/default/configmaps/a", None),
    ("GET", "/apis/test.io/v1", None),
    (
        "DELETE",
        "/api/v1/namespaces/default/configmaps/a",
        Some((
            "configmaps \"a\" is ",
            "delete resource \"configmaps\" in API group \"\"",
            HERE,
        )),
    ),
    (
        "GET",
        "/api/v1/configmaps",
        Some((
            "configmaps is ",
            "list resource \"configmaps\" in API group \"\"",
            "at the cluster scope",
        )),
    ),
    // An apply that would create needs the right to create.
    (
        "PATCH",
        "/api/v1/namespaces/default/configmaps/b?fieldManager=robot",
        Some((
            "configmaps \"b\" is ",
            "create resource \"configmaps\" in API group \"\"",
            HERE,
        )),
    ),
    (
        "GET",
        "/api/v1/namespaces/default/secrets?watch=true",
        Some((
            "secrets is ",
            "watch resource \"secrets\" in API group \"\"",
            HERE,
        )),
    ),
    (
        "PATCH",
        WIDGET,
        Some((
            "widgets.test.io \"w\" is ",
            "patch resource \"widgets\" in API group \"test.io\"",
            HERE,
        )),
    ),
    // A namespace lies in itself.
    (
        "GET",
        "/api/v1/namespaces/default",
        Some((
            "namespaces \"default\" is ",
            "get resource \"namespaces\" in API group \"\"",
            HERE,
        )),
    ),
    ("GET", "/metrics", Some(("", "get path \"/metrics\"", ""))),
];

#[tokio::test(start_paused = true)]
async fn rights_end_where_the_rules_end() {
    let (server, admin) = guarded();
    create(&admin, MAPS, map("a")).await;
    let rules = json!([
        {"verbs": ["get", "list", "patch"], "apiGroups": [""], "resources": ["configmaps"]},
        {"verbs": ["patch"], "apiGroups": ["test.io"], "resources": ["widgets/status"]},
    ]);
    grant(&admin, rules).await;
    let robot = Raw::from(server.client_as("robot", &robot()));
    for (method, uri, refusal) in REQUESTS {
        let (media, body) = match (method, uri.contains("fieldManager")) {
            ("PATCH", true) => (
                APPLY,
                "{apiVersion: v1, kind: ConfigMap, metadata: {name: b}}",
            ),
            ("PATCH", false) => (MERGE, "{}"),
            _ => (JSON, ""),
        };
        let got = robot.send(method, uri, media, body).await;
        let Some((subject, right, place)) = refusal else {
            assert_eq!(got.code, 200, "{method} {uri}: {}", got.message());
            continue;
        };
        let text = format!(
            "{subject}forbidden: User \"system:serviceaccount:default:robot\" cannot {right} {place}"
        );
        assert_eq!((got.code, got.reason()), (403, "Forbidden"));
        assert_eq!(got.message(), text.trim_end(), "{method} {uri}");
    }
    // The widget is not there, but the right to write its status is.
    let status = robot
        .send("PATCH", &format!("{WIDGET}/status"), MERGE, "{}")
        .await;
    assert_eq!(status.code, 404, "{}", status.message());
    let records = server.audit().records();
    let refused = records.iter().filter(|record| record.code == 403);
    assert_eq!(refused.count(), 7, "refusals are on record");
}

#[tokio::test(start_paused = true)]
async fn one_object_may_be_watched_by_those_who_may_read_it() {
    use futures::StreamExt;
    use k8s_openapi::api::core::v1::Secret;
    use kube::api::{Api, WatchParams};

    let (server, admin) = guarded();
    grant(
        &admin,
        json!([{
            "verbs": ["watch"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["s"],
        }]),
    )
    .await;
    let secrets: Api<Secret> = Api::default_namespaced(server.client_as("robot", &robot()));
    create(
        &admin,
        "/api/v1/namespaces/default/secrets",
        json!({"metadata": {"name": "s"}}),
    )
    .await;
    let only = WatchParams::default().fields("metadata.name=s");
    let mut events = std::pin::pin!(secrets.watch(&only, "0").await.expect("it may be watched"));
    assert!(events.next().await.is_some_and(|event| event.is_ok()));
    let all = secrets.watch(&WatchParams::default(), "0").await;
    assert!(all.is_err(), "all others may not be watched");
}

#[tokio::test(start_paused = true)]
async fn aggregated_roles_follow_their_parts() {
    let (server, admin) = guarded();
    let roles = format!("{RBAC}/clusterroles");
    let whole = json!({
        "metadata": {"name": "manager"},
        "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"for": "manager"}}]},
        "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["nothing"]}],
    });
    create(&admin, &roles, whole).await;
    let rules = || {
        let roles = server.object("clusterroles.rbac.authorization.k8s.io", "", "manager");
        roles.expect("the role is there")["rules"].clone()
    };
    assert_eq!(rules(), json!([]), "rules of its own are overwritten");
    let rule = json!([{"verbs": ["get"], "apiGroups": ["test.io"], "resources": ["widgets"]}]);
    let part = json!({"metadata": {"name": "part", "labels": {"for": "manager"}}, "rules": rule});
    create(&admin, &roles, part).await;
    assert_eq!(rules(), rule);
    let got = admin
        .send("DELETE", &format!("{roles}/part"), JSON, "")
        .await;
    assert_eq!(got.code, 200);
    assert_eq!(rules(), json!([]));
}

#[tokio::test(start_paused = true)]
async fn reviews_answer_what_the_rules_say() {
    let (server, admin) = guarded();
    grant(
        &admin,
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]),
    )
    .await;
    let robot = Raw::from(server.client_as("robot", &robot()));
    let reviews = "/apis/authorization.k8s.io/v1";
    let asked = |verb: &str| {
        json!({"spec": {"resourceAttributes": {
            "namespace": "default", "verb": verb, "resource": "configmaps",
        }}})
    };
    let own = format!("{reviews}/selfsubjectaccessreviews");
    let got = robot.post(&own, &asked("get")).await;
    assert_eq!(
        got.body["status"],
        json!({
            "allowed": true,
            "reason": "RBAC: allowed by RoleBinding \"robot/default\" of Role \"robot\" to \
                       ServiceAccount \"robot/default\"",
        })
    );
    let got = robot.post(&own, &asked("list")).await;
    assert_eq!(got.body["status"], json!({"allowed": false}));

    let others = format!("{reviews}/subjectaccessreviews");
    let mut review = asked("get");
    review["spec"]["user"] = "system:serviceaccount:default:robot".into();
    assert_eq!(
        robot.post(&others, &review).await.code,
        403,
        "not of others"
    );
    assert_eq!(
        admin.post(&others, &review).await.body["status"]["allowed"],
        true
    );
    let nothing = admin.post(&others, &json!({"spec": {"user": "x"}})).await;
    assert_eq!((nothing.code, nothing.reason()), (422, "Invalid"));

    let rules = json!({"spec": {"namespace": "default"}});
    let got = robot
        .post(&format!("{reviews}/selfsubjectrulesreviews"), &rules)
        .await;
    let rules = got.body["status"]["resourceRules"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    assert!(
        rules
            .iter()
            .any(|rule| rule["resources"] == json!(["configmaps"])),
        "{rules:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn tokens_of_service_accounts_end_with_time_and_account() {
    let (_server, admin) = guarded();
    create(&admin, ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    let tokens = format!("{ACCOUNTS}/robot/token");
    let asked = json!({"spec": {"expirationSeconds": 600}});
    let got = admin.post(&tokens, &asked).await;
    assert_eq!(got.code, 201, "{}", got.message());
    let token = got.body["status"]["token"].clone();
    let review = json!({"spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let status = admin.post(reviews, &review).await.body["status"].clone();
    assert_eq!(
        status["user"]["username"],
        "system:serviceaccount:default:robot"
    );
    assert_eq!(status["authenticated"], true);

    tokio::time::advance(Duration::from_secs(601)).await;
    let status = admin.post(reviews, &review).await.body["status"].clone();
    assert_eq!(status["authenticated"], Value::Null, "its time is over");

    let token = admin.post(&tokens, &asked).await.body["status"]["token"].clone();
    let review = json!({"spec": {"token": token}});
    admin
        .send("DELETE", &format!("{ACCOUNTS}/robot"), JSON, "")
        .await;
    create(&admin, ACCOUNTS, json!({"metadata": {"name": "robot"}})).await;
    let status = admin.post(reviews, &review).await.body["status"].clone();
    assert_eq!(
        status["authenticated"],
        Value::Null,
        "another account of the same name"
    );

    let short = admin
        .post(&tokens, &json!({"spec": {"expirationSeconds": 60}}))
        .await;
    assert_eq!(
        short.message(),
        "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: \
         60: may not specify a duration less than 10 minutes"
    );
}

#[tokio::test(start_paused = true)]
async fn who_may_impersonate_has_the_rights_of_the_other() {
    let (server, admin) = guarded();
    create(&admin, MAPS, map("a")).await;
    grant(
        &admin,
        json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"]}]),
    )
    .await;
    let as_robot = |client: kube::Client, method: &'static str| async move {
        let request = Request::builder()
            .method(method)
            .uri(format!("{MAPS}/a"))
            .header("impersonate-user", "system:serviceaccount:default:robot")
            .body(Vec::new().into())
            .expect("the request is valid");
        let response = client.send(request).await.expect("no faults are planned");
        response.status().as_u16()
    };
    assert_eq!(as_robot(server.client("raw"), "GET").await, 200);
    assert_eq!(as_robot(server.client("raw"), "DELETE").await, 403);
    let stranger = server.client_as("stranger", &User::new("stranger"));
    assert_eq!(as_robot(stranger, "GET").await, 403);
    let records = server.audit().records();
    let last = records.last().expect("there were requests");
    assert_eq!(last.actor, "stranger", "the record names who sent it");
}
