use super::*;
use crate::http::client::send;

const SECRET: &str = "secretsmanager.GetSecretValue";
const TOKEN: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";

/// The answer to a call that is signed for `scope`, a Region and a service.
async fn call(aws: &Aws, target: &str, scope: &str, input: Value) -> Value {
    let credential = format!("Credential=A/20261121/{scope}/aws4_request, Signature=0");
    let headers = [
        ("content-type", CONTENT_TYPE),
        ("x-amz-target", target),
        ("authorization", &format!("AWS4-HMAC-SHA256 {credential}")),
    ];
    let url = aws.server.url();
    let answer = send("POST", &url, &headers, input.to_string());
    answer.await.expect("an answer").json()
}

#[tokio::test]
async fn calls_are_signed_for_their_service_and_each_region_has_its_authorization() {
    let aws = Aws::start().await;
    let end = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    aws.authorize("here", "http://127.0.0.1:1", end);
    aws.authorize_in("us-east-1", "there", "http://127.0.0.1:2", end);
    for (region, expected) in [("eu-west-3", "AWS:here"), ("us-east-1", "AWS:there")] {
        let answer = call(&aws, TOKEN, &format!("{region}/ecr"), json!({})).await;
        let token = &answer["authorizationData"][0]["authorizationToken"];
        assert_eq!(*token, STANDARD.encode(expected));
    }
    for (target, scope, kind) in [
        (TOKEN, "eu-central-1/ecr", "AccessDeniedException"),
        (TOKEN, "eu-west-3/sqs", "InvalidSignatureException"),
        (
            SECRET,
            "us-east-1/secretsmanager",
            "InvalidSignatureException",
        ),
        (SECRET, "", "MissingAuthenticationTokenException"),
    ] {
        let refused = call(&aws, target, scope, json!({})).await;
        assert_eq!(refused["__type"], kind, "{target} {scope}");
    }
}

/// The API and the registry speak of the same repositories, and the API refuses what the real one does.
#[tokio::test]
async fn repositories_are_those_of_the_registry_that_is_served() {
    let (aws, ecr) = (Aws::start().await, Ecr::start().await);
    aws.serve_registry(REGION, ACCOUNT, &ecr);
    let call = async |operation: &str, input: Value| {
        let target = format!("AmazonEC2ContainerRegistry_V20150921.{operation}");
        call(&aws, &target, &format!("{REGION}/ecr"), input).await
    };
    let name = json!({"repositoryName": "prod/api"});
    for operation in ["GetLifecyclePolicy", "PutImageTagMutability"] {
        let refused = call(operation, name.clone()).await;
        assert_eq!(refused["__type"], "RepositoryNotFoundException");
    }
    let created = call("CreateRepository", name.clone()).await;
    let arn = format!("arn:aws:ecr:{REGION}:{ACCOUNT}:repository/prod/api");
    assert_eq!(created["repository"]["repositoryArn"], arn);
    assert_eq!(ecr.settings("prod/api"), Some(Default::default()));
    for (operation, more, kind) in [
        (
            "CreateRepository",
            json!({}),
            "RepositoryAlreadyExistsException",
        ),
        (
            "GetLifecyclePolicy",
            json!({}),
            "LifecyclePolicyNotFoundException",
        ),
        (
            "GetRepositoryPolicy",
            json!({}),
            "RepositoryPolicyNotFoundException",
        ),
        (
            "PutLifecyclePolicy",
            json!({"lifecyclePolicyText": "{}"}),
            "InvalidParameterException",
        ),
        (
            "SetRepositoryPolicy",
            json!({"policyText": "{}"}),
            "InvalidParameterException",
        ),
        (
            "PutImageTagMutability",
            json!({"imageTagMutability": "IMMUTABLE_WITH_EXCLUSION"}),
            "InvalidParameterException",
        ),
        (
            "TagResource",
            json!({"resourceArn": arn, "tags": [{"Key": "team"}]}),
            "InvalidTagParameterException",
        ),
        (
            "CreateRepository",
            json!({"registryId": "210987654321"}),
            "AccessDeniedException",
        ),
    ] {
        let mut input = name.clone();
        for (field, value) in more.as_object().expect("an object") {
            input[field] = value.clone();
        }
        assert_eq!(call(operation, input).await["__type"], kind, "{operation}");
    }
    let counts = aws.repository_calls();
    assert_eq!(counts[0], ("CreateRepository".to_owned(), 3));
}
