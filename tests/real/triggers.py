"""What GitHub, API Gateway and SQS send, in their own shapes."""

import hashlib
import hmac
import json

# GitHub's documentation uses it as its example.
WEBHOOK_SECRET = "It's a Secret to Everybody"
DELIVERY = "72d3162e-cc78-11e3-81ab-4c9367dc0958"


def push(tag: str, version: str) -> str:
    """The body of GitHub's webhook for a push to `acme/debian`."""
    return json.dumps({
        "action": "published",
        "package": {
            "name": "debian", "namespace": "acme", "ecosystem": "CONTAINER", "package_type": "CONTAINER",
            "owner": {"login": "acme", "type": "Organization"},
            "package_version": {
                "version": version, "name": version,
                "container_metadata": {"tag": {"name": tag, "digest": version}},
                "package_url": f"ghcr.io/acme/debian:{tag}",
            },
            "registry": {"name": "GitHub CONTAINER registry", "type": "CONTAINER", "url": "https://ghcr.io/"},
        },
        "organization": {"login": "acme"},
    })


def headers(body: str, secret: str, delivery: str = DELIVERY) -> dict[str, str]:
    """Those of GitHub's webhook, with the signature."""
    signature = hmac.new(secret.encode(), body.encode(), hashlib.sha256).hexdigest()
    return {
        "content-type": "application/json", "user-agent": "GitHub-Hookshot/f54a7b2",
        "x-github-event": "package", "x-github-delivery": delivery, "x-hub-signature-256": f"sha256={signature}",
    }


def webhook(body: str, secret: str = WEBHOOK_SECRET, delivery: str = DELIVERY) -> dict:
    """GitHub's webhook as an HTTP API hands it over (payload format 2.0)."""
    return {
        "version": "2.0", "routeKey": "POST /webhook", "rawPath": "/webhook", "rawQueryString": "",
        "headers": headers(body, secret, delivery),
        "requestContext": {
            "accountId": "123456789012", "apiId": "api", "domainName": "api.example.com", "domainPrefix": "api",
            "http": {"method": "POST", "path": "/webhook", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1",
                     "userAgent": "GitHub-Hookshot/f54a7b2"},
            "requestId": "id", "routeKey": "POST /webhook", "stage": "$default",
            "time": "21/Nov/2026:07:00:00 +0000", "timeEpoch": 1795244400000,
        },
        "body": body, "isBase64Encoded": False,
    }


def messages_of_sqs(messages: list[dict]) -> dict:
    """Messages that `ReceiveMessage` gave, as Lambda's event source mapping hands them over."""
    return {"Records": [{
        "messageId": message["MessageId"], "receiptHandle": message["ReceiptHandle"], "body": message["Body"],
        "attributes": message["Attributes"], "messageAttributes": {}, "md5OfBody": message["MD5OfBody"],
        "eventSource": "aws:sqs", "eventSourceARN": "arn:aws:sqs:eu-west-3:123456789012:jobs.fifo",
        "awsRegion": "eu-west-3",
    } for message in messages]}
