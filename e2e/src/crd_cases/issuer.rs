//! Issuers and ClusterIssuers that the API server refuses, and some at the edge that it takes.

use serde_json::{Value, json};

use super::{Case, NOT_A_PROFILE, long, merged, object};

const CEL: &str = "x-kubernetes-validations";
const NOT_AN_OBJECT: &str = "must be an object's name: lower case letters, digits, '-' and '.', beginning and ending with a letter or digit";

fn base() -> Value {
    json!({"acme": {
        "directory": "https://ca.example.com/directory",
        "termsOfServiceAgreed": true,
        "accountKeySecretRef": {"name": "account"},
    }})
}

fn many(count: usize) -> Value {
    let pairs = (0..count).map(|n| (format!("example.com/k{n}"), json!("v")));
    Value::Object(pairs.collect())
}

/// What is wrong with an issuer's spec, for either kind.
struct Wrong {
    path: &'static str,
    keyword: &'static str,
    spec: Value,
    says: String,
}

fn wrong(
    path: &'static str,
    keyword: &'static str,
    change: &Value,
    says: impl Into<String>,
) -> Wrong {
    Wrong {
        path,
        keyword,
        spec: merged(&base(), change),
        says: says.into(),
    }
}

fn acme(
    path: &'static str,
    keyword: &'static str,
    fields: Value,
    says: impl Into<String>,
) -> Wrong {
    wrong(path, keyword, &under("acme", fields), says)
}

fn under(field: &str, value: Value) -> Value {
    Value::Object([(field.to_owned(), value)].into_iter().collect())
}

/// The cases of both kinds, for `kind`.
pub(super) fn bad(kind: &'static str) -> Vec<Case> {
    let mut all = kinds_of_issuer();
    all.extend(account());
    all.extend(external_account());
    all.extend(trust());
    all.extend(self_check());
    all.into_iter()
        .map(|w| Case {
            kind,
            path: w.path,
            keyword: w.keyword,
            spec: w.spec,
            says: w.says,
        })
        .collect()
}

fn kinds_of_issuer() -> Vec<Wrong> {
    let one =
        "spec: Invalid value: set exactly one of acme and selfSigned (written selfSigned: {})";
    vec![
        Wrong {
            path: "",
            keyword: "required spec",
            spec: Value::Null,
            says: "spec: Required value".into(),
        },
        wrong("spec", CEL, &json!({"acme": null}), one),
        wrong("spec", CEL, &json!({"selfSigned": {}}), one),
    ]
}

fn account() -> Vec<Wrong> {
    let directory = "must be an https:// URL, or one of LetsEncrypt, LetsEncryptStaging, ZeroSSL, GoogleTrustServices";
    let email =
        "must be one mail address, such as certificates@example.com, without a name or mailto:";
    let chain = "must be the common name of a root certificate, such as ISRG Root X1";
    let mut all = vec![
        acme(
            "spec.acme.preferredChain",
            "maxLength",
            json!({"preferredChain": long("R", 201)}),
            "spec.acme.preferredChain: Too long: may not be more than 200 bytes",
        ),
        acme(
            "spec.acme.preferredChain",
            CEL,
            json!({"preferredChain": " "}),
            format!("spec.acme.preferredChain: Invalid value: \" \": {chain}"),
        ),
        acme(
            "spec.acme",
            "required directory",
            json!({"directory": null}),
            "spec.acme.directory: Required value",
        ),
        acme(
            "spec.acme.directory",
            "maxLength",
            json!({"directory": long("https://ca.example.com/", 2049)}),
            "spec.acme.directory: Too long: may not be more than 2048 bytes",
        ),
        acme(
            "spec.acme.profile",
            CEL,
            json!({"profile": "tls server"}),
            format!("spec.acme.profile: Invalid value: \"tls server\": {NOT_A_PROFILE}"),
        ),
        acme(
            "spec.acme.profile",
            "maxLength",
            json!({"profile": "a".repeat(65)}),
            "spec.acme.profile: Too long: may not be more than 64 bytes",
        ),
        acme(
            "spec.acme.email",
            "maxLength",
            json!({"email": format!("{}@example.com", "a".repeat(243))}),
            "spec.acme.email: Too long: may not be more than 254 bytes",
        ),
        acme(
            "spec.acme",
            "required accountKeySecretRef",
            json!({"accountKeySecretRef": null}),
            "spec.acme.accountKeySecretRef: Required value",
        ),
        acme(
            "spec.acme.accountKeySecretRef",
            "required name",
            json!({"accountKeySecretRef": {"name": null}}),
            "spec.acme.accountKeySecretRef.name: Required value",
        ),
        acme(
            "spec.acme.accountKeySecretRef.name",
            CEL,
            json!({"accountKeySecretRef": {"name": "Account"}}),
            format!(
                "spec.acme.accountKeySecretRef.name: Invalid value: \"Account\": {NOT_AN_OBJECT}"
            ),
        ),
        acme(
            "spec.acme.accountKeySecretRef.name",
            "maxLength",
            json!({"accountKeySecretRef": {"name": long("k", 254)}}),
            "spec.acme.accountKeySecretRef.name: Too long: may not be more than 253 bytes",
        ),
    ];
    let urls = [
        "http://ca.example.com/directory",
        "letsencrypt",
        "",
        "https://",
        "https://me:secret@ca.example.com/",
        "https://ca.example.com/#a",
    ];
    all.extend(urls.map(|bad| {
        let says = format!("spec.acme.directory: Invalid value: {bad:?}: {directory}");
        acme("spec.acme.directory", CEL, json!({"directory": bad}), says)
    }));
    let mails = [
        "mailto:a@example.com",
        "a@example.com,b@example.com",
        "example.com",
        "a@b",
        "Me <a@example.com>",
        "a?x=1@example.com",
    ];
    all.extend(mails.map(|bad| {
        let says = format!("spec.acme.email: Invalid value: {bad:?}: {email}");
        acme("spec.acme.email", CEL, json!({"email": bad}), says)
    }));
    all
}

fn external_account() -> Vec<Wrong> {
    const AT: &str = "spec.acme.externalAccountBinding";
    let binding = json!({"keyID": "kid-1", "keySecretRef": {"name": "eab", "key": "mac"}});
    let case = |path: &'static str, keyword: &'static str, change: Value, says: String| {
        let fields = under("externalAccountBinding", merged(&binding, &change));
        acme(path, keyword, fields, format!("{AT}.{says}"))
    };
    let id = "must be the key identifier as the CA gave it, without spaces";
    let key = "must be a key of a Secret's data: letters, digits, '-', '_' and '.'";
    let reference = "spec.acme.externalAccountBinding.keySecretRef";
    let mut all = vec![
        case(
            AT,
            "required keyID",
            json!({"keyID": null}),
            "keyID: Required value".into(),
        ),
        case(
            AT,
            "required keySecretRef",
            json!({"keySecretRef": null}),
            "keySecretRef: Required value".into(),
        ),
        case(
            "spec.acme.externalAccountBinding.keyID",
            "maxLength",
            json!({"keyID": long("k", 1025)}),
            "keyID: Too long: may not be more than 1024 bytes".into(),
        ),
        case(
            reference,
            "required name",
            json!({"keySecretRef": {"name": null}}),
            "keySecretRef.name: Required value".into(),
        ),
        case(
            reference,
            "required key",
            json!({"keySecretRef": {"key": null}}),
            "keySecretRef.key: Required value".into(),
        ),
        case(
            "spec.acme.externalAccountBinding.keySecretRef.name",
            CEL,
            json!({"keySecretRef": {"name": "E_A_B"}}),
            format!("keySecretRef.name: Invalid value: \"E_A_B\": {NOT_AN_OBJECT}"),
        ),
        case(
            "spec.acme.externalAccountBinding.keySecretRef.name",
            "maxLength",
            json!({"keySecretRef": {"name": long("e", 254)}}),
            "keySecretRef.name: Too long: may not be more than 253 bytes".into(),
        ),
        case(
            "spec.acme.externalAccountBinding.keySecretRef.key",
            CEL,
            json!({"keySecretRef": {"key": "mac key"}}),
            format!("keySecretRef.key: Invalid value: \"mac key\": {key}"),
        ),
        case(
            "spec.acme.externalAccountBinding.keySecretRef.key",
            "maxLength",
            json!({"keySecretRef": {"key": long("m", 254)}}),
            "keySecretRef.key: Too long: may not be more than 253 bytes".into(),
        ),
    ];
    all.extend(["", "kid 1"].map(|bad| {
        case(
            "spec.acme.externalAccountBinding.keyID",
            CEL,
            json!({ "keyID": bad }),
            format!("keyID: Invalid value: {bad:?}: {id}"),
        )
    }));
    all
}

fn trust() -> Vec<Wrong> {
    let bundle = json!({"caBundle": "-----BEGIN CERTIFICATE-----"});
    vec![
        acme(
            "spec.acme",
            CEL,
            merged(&bundle, &json!({"caBundleSecretRef": {"name": "roots"}})),
            "spec.acme.caBundleSecretRef: Forbidden: caBundle and caBundleSecretRef exclude each other: keep one of them",
        ),
        acme(
            "spec.acme.caBundle",
            CEL,
            json!({"caBundle": "LS0tLS1CRUdJTg=="}),
            "spec.acme.caBundle: Invalid value: \"LS0tLS1CRUdJTg==\": must be certificates in PEM \
             (-----BEGIN CERTIFICATE-----), not in base64 once more",
        ),
        acme(
            "spec.acme.caBundle",
            "maxLength",
            json!({"caBundle": long("-----BEGIN CERTIFICATE-----", 262_145)}),
            "spec.acme.caBundle: Too long: may not be more than 262144 bytes",
        ),
        acme(
            "spec.acme.caBundleSecretRef",
            "required name",
            json!({"caBundleSecretRef": {"key": "ca.crt"}}),
            "spec.acme.caBundleSecretRef.name: Required value",
        ),
        acme(
            "spec.acme.caBundleSecretRef.name",
            CEL,
            json!({"caBundleSecretRef": {"name": "roots/"}}),
            format!("spec.acme.caBundleSecretRef.name: Invalid value: \"roots/\": {NOT_AN_OBJECT}"),
        ),
        acme(
            "spec.acme.caBundleSecretRef.name",
            "maxLength",
            json!({"caBundleSecretRef": {"name": long("r", 254)}}),
            "spec.acme.caBundleSecretRef.name: Too long: may not be more than 253 bytes",
        ),
        acme(
            "spec.acme.caBundleSecretRef.key",
            CEL,
            json!({"caBundleSecretRef": {"name": "roots", "key": "ca/crt"}}),
            "spec.acme.caBundleSecretRef.key: Invalid value: \"ca/crt\": must be a key of a Secret's data: letters, digits, '-', \
             '_' and '.'",
        ),
        acme(
            "spec.acme.caBundleSecretRef.key",
            "maxLength",
            json!({"caBundleSecretRef": {"name": "roots", "key": long("k", 254)}}),
            "spec.acme.caBundleSecretRef.key: Too long: may not be more than 253 bytes",
        ),
        acme(
            "spec.acme.http01.ingressClassName",
            CEL,
            json!({"http01": {"ingressClassName": "my class"}}),
            format!(
                "spec.acme.http01.ingressClassName: Invalid value: \"my class\": {NOT_AN_OBJECT}"
            ),
        ),
        acme(
            "spec.acme.http01.ingressClassName",
            "maxLength",
            json!({"http01": {"ingressClassName": long("c", 254)}}),
            "spec.acme.http01.ingressClassName: Too long: may not be more than 253 bytes",
        ),
        acme(
            "spec.acme.http01.annotations",
            CEL,
            json!({"http01": {"annotations": {"evercert.dev/x": "1"}}}),
            "spec.acme.http01.annotations: Forbidden: has a key under evercert.dev/, and these are Evercert's own: choose another \
             prefix",
        ),
        acme(
            "spec.acme.http01.annotations",
            CEL,
            json!({"http01": {"annotations": {"kubernetes.io/ingress.class": "contour"}}}),
            "spec.acme.http01.annotations: Forbidden: has kubernetes.io/ingress.class: name the class in ingressClassName",
        ),
        acme(
            "spec.acme.http01.annotations",
            "maxProperties",
            json!({"http01": {"annotations": many(33)}}),
            "spec.acme.http01.annotations: Too many: 33: must have at most 32 items",
        ),
        acme(
            "spec.acme.http01.annotations{}",
            "maxLength",
            json!({"http01": {"annotations": {"note": long("n", 4097)}}}),
            "spec.acme.http01.annotations.note: Too long: may not be more than 4096 bytes",
        ),
        acme(
            "spec.acme.http01.placement",
            "enum",
            json!({"http01": {"placement": "Elsewhere"}}),
            "spec.acme.http01.placement: Unsupported value: \"Elsewhere\": supported values: \"Operator\", \"Namespace\"",
        ),
    ]
}

fn self_check() -> Vec<Wrong> {
    let http01 = |check: Value| json!({"http01": {"selfCheck": check}});
    let not_a_budget = |budget: &str| {
        acme(
            "spec.acme.http01.selfCheck.budget",
            CEL,
            http01(json!({"budget": budget})),
            format!(
                "spec.acme.http01.selfCheck.budget: Invalid value: \"{budget}\": must be a duration above zero in minutes and seconds \
                 such as 30s or 2m, 10m at most"
            ),
        )
    };
    let mut all: Vec<Wrong> = ["", "0s", "30", "1d", "10m1s", "1h"]
        .map(not_a_budget)
        .into();
    all.extend([
        acme(
            "spec.acme.http01.selfCheck.budget",
            "maxLength",
            http01(json!({"budget": format!("{}s", "0".repeat(21))})),
            "spec.acme.http01.selfCheck.budget: Too long: may not be more than 21 bytes",
        ),
        acme(
            "spec.acme.http01.selfCheck",
            CEL,
            http01(json!({"mode": "Required", "budget": "30s"})),
            "spec.acme.http01.selfCheck.budget: Forbidden: is how long a wrong answer holds an order back in mode Advisory: leave it out \
             in the others",
        ),
        acme(
            "spec.acme.http01.selfCheck.mode",
            "enum",
            http01(json!({"mode": "Strict"})),
            "spec.acme.http01.selfCheck.mode: Unsupported value: \"Strict\": supported values: \"Advisory\", \"Required\", \"Off\"",
        ),
    ]);
    all
}

fn policy(
    path: &'static str,
    keyword: &'static str,
    rules: Value,
    says: impl Into<String>,
) -> Case {
    let spec = merged(&base(), &under("policy", rules));
    Case {
        kind: "ClusterIssuer",
        path,
        keyword,
        spec,
        says: says.into(),
    }
}

/// The cases of a ClusterIssuer's policy.
pub(super) fn bad_policies() -> Vec<Case> {
    let name = "must be a host name in lower case, *.suffix for every name below a suffix, an IP address, or a network such as \
                192.0.2.0/24; to allow every name, leave allowedNames out";
    let most = "must be 1 to 1000000; to allow none, let no rule select the namespace";
    let many: Vec<String> = (0..101).map(|n| format!("n{n}.example.com")).collect();
    let rules: Vec<Value> = (0..41).map(|n| json!({"maxCertificates": n + 1})).collect();
    let selector =
        |expression: Value| json!([{"namespaceSelector": {"matchExpressions": [expression]}}]);
    let mut cases = vec![
        policy(
            "spec.policy",
            "maxItems",
            json!(rules),
            "spec.policy: Too many: 41: must have at most 40 items",
        ),
        policy(
            "spec.policy[].allowedNames",
            "maxItems",
            json!([{ "allowedNames": many }]),
            "spec.policy[0].allowedNames: Too many: 101: must have at most 100 items",
        ),
        policy(
            "spec.policy[].allowedNames",
            "x-kubernetes-list-type",
            json!([{"allowedNames": ["*.example.com", "*.example.com"]}]),
            "spec.policy[0].allowedNames[1]: Duplicate value: \"*.example.com\"",
        ),
        policy(
            "spec.policy[].allowedNames[]",
            "maxLength",
            json!([{"allowedNames": [format!("*.{}com", "a.".repeat(126))]}]),
            "spec.policy[0].allowedNames[0]: Too long: may not be more than 255 bytes",
        ),
        policy(
            "spec.policy[].namespaceSelector.matchExpressions[]",
            "required key",
            selector(json!({"operator": "Exists"})),
            "spec.policy[0].namespaceSelector.matchExpressions[0].key: Required value",
        ),
        policy(
            "spec.policy[].namespaceSelector.matchExpressions[]",
            "required operator",
            selector(json!({"key": "team"})),
            "spec.policy[0].namespaceSelector.matchExpressions[0].operator: Required value",
        ),
    ];
    cases.extend(
        [
            "*",
            "a.*.com",
            "*a.example.com",
            "Example.com",
            "",
            "*.example.com.",
            "2001:db8::/129",
        ]
        .map(|bad| {
            let says = format!("spec.policy[0].allowedNames[0]: Invalid value: {bad:?}: {name}");
            policy(
                "spec.policy[].allowedNames[]",
                CEL,
                json!([{"allowedNames": [bad]}]),
                says,
            )
        }),
    );
    cases.extend([0_i64, -1, 5_000_000_000].map(|bad| {
        let says = format!("spec.policy[0].maxCertificates: Invalid value: {bad}: {most}");
        policy(
            "spec.policy[].maxCertificates",
            CEL,
            json!([{"maxCertificates": bad}]),
            says,
        )
    }));
    cases
}

/// Good issuers of either kind, for `kind`.
pub(super) fn good(kind: &'static str) -> Vec<Value> {
    let names = [
        "LetsEncrypt",
        "LetsEncryptStaging",
        "ZeroSSL",
        "GoogleTrustServices",
    ];
    let urls = [
        "https://ca.example.com",
        "https://198.18.0.1:14000/dir",
        "https://[fe80::1]:8443/dir?a=b",
    ];
    let directories = names
        .iter()
        .chain(&urls)
        .map(|directory| json!({"acme": {"directory": directory}}));
    let others = [
        json!({"acme": null, "selfSigned": {}}),
        json!({"acme": {"email": "oneill+certs@mail.example.com", "profile": "tlsserver"}}),
        json!({"acme": {"externalAccountBinding": {
            "keyID": long("k", 1024), "keySecretRef": {"name": long("e", 253), "key": long("m", 253)},
        }}}),
        json!({"acme": {"preferredChain": long("Root ", 200)}}),
        // Not agreeing is a condition with the terms' URL, which only the CA can tell.
        json!({"acme": {"termsOfServiceAgreed": false}}),
        json!({"acme": {"caBundle": long("-----BEGIN CERTIFICATE-----", 262_144)}}),
        json!({"acme": {"caBundleSecretRef": {"name": "roots", "key": "ca.crt"}, "http01": {"ingressClassName": "contour"}}}),
        json!({"acme": {"http01": {"annotations": many(32), "editInPlace": false}}}),
        json!({"acme": {"http01": {"selfCheck": {}}}}),
        json!({"acme": {"http01": {"selfCheck": {"mode": "Off"}}}}),
        json!({"acme": {"http01": {"selfCheck": {"mode": "Advisory", "budget": "9m60s"}}}}),
    ];
    directories
        .chain(others)
        .map(|patch| object(kind, &merged(&base(), &patch)))
        .collect()
}

/// Good policies of a ClusterIssuer.
pub(super) fn good_policies() -> Vec<Value> {
    let names: Vec<String> = (0..100).map(|n| format!("*.n{n}.example.com")).collect();
    let rules: Vec<Value> = (0..40)
        .map(|n| {
            json!({
                "namespaceSelector": {"matchLabels": {"team": format!("t{n}")}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                "allowedNames": names,
                "maxCertificates": 1_000_000,
            })
        })
        .collect();
    [
        json!([]),
        json!([{}]),
        json!([{"allowedNames": ["local", "*.local"], "maxCertificates": 1}]),
        json!([{"allowedNames": ["198.18.0.1", "192.0.2.0/24", "2001:db8::1", "2001:db8::/32"]}]),
        json!(rules),
    ]
    .map(|rules| object("ClusterIssuer", &merged(&base(), &under("policy", rules))))
    .to_vec()
}
