"""An AWS account as the AWS CLI meets it: AWS's own host names by HTTPS, through a proxy that is all there is of a network.

Behind the names is moto, and before it stands what moto leaves out: SAM's transform, what CloudFormation refuses, rights that are
lacking, and the functions' answers. GitHub is reached through the same proxy: its downloads, and its API for webhooks."""

import datetime
import json
import re
import ssl
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit
from xml.sax.saxutils import escape

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto.awslambda.models import lambda_backends
from moto.cloudformation.models import Event, cloudformation_backends
from moto.s3.models import s3_backends
from moto.secretsmanager.models import secretsmanager_backends
from moto.server import DomainDispatcherApplication, create_backend_app
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse
from werkzeug.test import Client

from conftest import REGION
from stack import NoManagedPolicies

NUMBER = "123456789012"
# CloudFormation's own limits. (User guide, "CloudFormation quotas")
LONGEST_TEMPLATE_BODY, LONGEST_TEMPLATE, LONGEST_PARAMETER = 51_200, 1_000_000, 4_096
# What moto can't create, and what refers to it.
NOT_IN_MOTO = {
    "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage", "AWS::CloudWatch::Alarm", "AWS::CloudWatch::Dashboard",
    "AWS::ECR::PullTimeUpdateExclusion", "AWS::Lambda::EventInvokeConfig", "AWS::Lambda::Permission", "AWS::Logs::MetricFilter",
    "AWS::Scheduler::Schedule", "AWS::SQS::QueuePolicy",
}


class Refused(Exception):
    """What AWS answers with an error: its code, its message, and the status."""

    def __init__(self, code: str, message: str, status: int = 400):
        super().__init__(code, message, status)
        self.code, self.message, self.status = code, message, status


class Authority:
    """Certificates for whatever host is asked for, by an authority that only these tests trust."""

    def __init__(self, folder: Path):
        self.folder, self.file = folder, folder / "authority.pem"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Tests")])
        certificate = self._signed(self._name, self._key.public_key(), x509.BasicConstraints(ca=True, path_length=None))
        self.file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self._contexts, self._lock = {}, threading.Lock()

    def context(self, host: str) -> ssl.SSLContext:
        with self._lock:
            if host not in self._contexts:
                key = ec.generate_private_key(ec.SECP256R1())
                name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64])])
                certificate = self._signed(name, key.public_key(), x509.SubjectAlternativeName([x509.DNSName(host)]))
                file = self.folder / f"{host}.pem"
                file.write_bytes(
                    key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                      serialization.NoEncryption()) + certificate.public_bytes(serialization.Encoding.PEM))
                self._contexts[host] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                self._contexts[host].load_cert_chain(file)
            return self._contexts[host]

    def _signed(self, name: x509.Name, key: ec.EllipticCurvePublicKey, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (x509.CertificateBuilder().subject_name(name).issuer_name(self._name).public_key(key)
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
                .add_extension(extension, critical=True).sign(self._key, hashes.SHA256()))


class Account:
    """What happens in one test. Each operation is written down as `service:Operation` in `calls`."""

    def __init__(self, authority: Authority):
        self.authority = authority
        self.calls: list[str] = []
        # Bodies of GitHub's downloads by path; one that is shorter than it says breaks off.
        self.downloads: dict[str, bytes] = {}
        self.broken_off: set[str] = set()
        self.redirect = "https://release-assets.githubusercontent.com"
        # Operations that are refused, each with its error.
        self.refuses: dict[str, Refused] = {}
        # The first resource that CloudFormation can't create, and why.
        self.fails: tuple[str, str] | None = None
        # What each function answers, by its name in the template.
        self.answers: dict[str, object] = {}
        self.payloads: list[tuple[str, object]] = []
        # What GitHub was told to tell of, each with the path.
        self.webhooks: list[tuple[str, object]] = []
        self._moto = Client(DomainDispatcherApplication(create_backend_app))
        self._moto.post("http://localhost/moto-api/reset")

    def serve(self, method: str, host: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, dict, bytes]:
        if host == "api.github.com":
            assert headers["Authorization"].startswith("token ") and method == "POST", (method, headers)
            self.webhooks.append((target, json.loads(body)))
            return 201, {"Content-Type": "application/json"}, b"{}"
        if host in ("github.com", "release-assets.githubusercontent.com"):
            return self._download(host, target)
        assert host.endswith(".amazonaws.com"), host
        _, _, region, service, _ = headers["Authorization"].split("Credential=")[1].split(",")[0].split("/")
        # A request that is signed for one Region and sent to another is refused by AWS.
        assert region in host, f"{host} was asked for {service} in {region}"
        operation = name_of(service, method, host, target, headers, body)
        self.calls.append(operation)
        # A bucket's name can be somebody else's.
        assert operation not in ("s3:HeadBucket", "s3:DeleteBucket") or headers["x-amz-expected-bucket-owner"] == NUMBER
        try:
            if operation in self.refuses:
                raise self.refuses[operation]
            if operation == "lambda:Invoke":
                return self._invoke(target, body)
            if operation == "cloudformation:CreateChangeSet":
                body = self._change_set(region, body)
            if operation == "cloudformation:ExecuteChangeSet" and self.fails:
                return self._fail(region, body)
        except Refused as refused:
            return refusal(service, refused)
        headers = {name: value for name, value in headers.items() if name not in ("Content-Length", "Expect", "Transfer-Encoding")}
        answer = self._moto.open(urlsplit(target).path, query_string=urlsplit(target).query, method=method,
                                 base_url=f"https://{host}", headers=headers, data=body)
        if operation == "cloudformation:ExecuteChangeSet" and answer.status_code == 200:
            self._complete(region, body)
        return answer.status_code, dict(answer.headers), answer.data

    def _complete(self, region: str, body: bytes) -> None:
        """What moto leaves as it was when it executes a change set."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        change_set = cloudformation_backends[NUMBER][region].change_sets[form["ChangeSetName"]]
        stack = change_set.stack
        stack.parameters, stack.tags = change_set.parameters, change_set.tags
        stack._parse_template()
        stack.output_map = stack._create_output_map()

    def _download(self, host: str, target: str) -> tuple[int, dict, bytes]:
        if target not in self.downloads:
            return 404, {}, b"Not Found"
        # GitHub sends to the host where the files lie.
        if host == "github.com":
            return 302, {"Location": self.redirect + target}, b""
        content = self.downloads[target]
        if target in self.broken_off:
            return 200, {"Content-Length": str(len(content))}, content[:len(content) // 2]
        return 200, {}, content

    def _invoke(self, target: str, body: bytes) -> tuple[int, dict, bytes]:
        name = unquote(urlsplit(target).path.split("/")[3])
        logical, = [logical for logical in self.answers if f"-{logical}-" in name]
        self.payloads.append((logical, json.loads(body)))
        answer = self.answers[logical]
        if isinstance(answer, Refused):
            raise answer
        headers = {"X-Amz-Function-Error": "Unhandled"} if "errorMessage" in answer else {}
        return 200, headers, json.dumps(answer).encode()

    # What there is in the account, as moto has it; None where there is nothing.

    def stack(self, name: str, region: str):
        stacks = cloudformation_backends[NUMBER][region].stacks.values()
        return next((stack for stack in stacks if stack.name == name), None)

    def code(self, region: str) -> set[tuple[str, str]]:
        """Bucket and key of the code of all functions."""
        functions = lambda_backends[NUMBER][region].list_functions()
        return {(function.code["S3Bucket"], function.code["S3Key"]) for function in functions}

    def bucket(self, name: str):
        return s3_backends[NUMBER]["aws"].buckets.get(name)

    def object(self, bucket: str, key: str) -> bytes:
        return self.bucket(bucket).keys[key].value

    def secret(self, secret: str) -> str | None:
        """Its text, unless it is deleted, though it might be restored."""
        secrets = secretsmanager_backends[NUMBER][REGION].secrets
        found = secrets.get(secret)
        return None if found is None or found.is_deleted() else found.versions[found.default_version_id]["secret_string"]

    # What others have made there.

    def create_secret(self, name: str, text: str) -> None:
        secretsmanager_backends[NUMBER][REGION].create_secret(name, text, None, None, [], None, None, [], False)

    def create_stack(self, name: str, region: str, parameter: str, status: str) -> None:
        """A stack with one parameter."""
        template = {"Parameters": {parameter: {"Type": "String"}}, "Resources": {"Queue": {"Type": "AWS::SQS::Queue"}}}
        cloudformation_backends[NUMBER][region].create_stack(name, json.dumps(template), {parameter: "text"})
        self.stack(name, region).status = status

    def _change_set(self, region: str, body: bytes) -> bytes:
        """The request with what CloudFormation makes of its template and parameters, for moto."""
        form = {name: values[0] for name, values in parse_qs(body.decode(), keep_blank_values=True).items()}
        if len(form.get("TemplateBody", "")) > LONGEST_TEMPLATE_BODY:
            raise Refused("ValidationError", "1 validation error detected: Value at 'templateBody' failed to satisfy constraint: "
                                             f"Member must have length less than or equal to {LONGEST_TEMPLATE_BODY}")
        capabilities = set(listed(form, "Capabilities"))
        if capabilities != {"CAPABILITY_IAM", "CAPABILITY_AUTO_EXPAND"}:
            raise Refused("InsufficientCapabilitiesException", f"Requires capabilities : {sorted(capabilities)}")
        template = yaml_parse(form.get("TemplateBody") or self._object(region, form["TemplateURL"]).decode())
        stack = self.stack(form["StackName"], region)
        values = self._parameters(form, template, stack.stack_parameters if stack else {})

        transformed = transform(template, values, NoManagedPolicies())
        for name, resource in list(transformed["Resources"].items()):
            if resource["Type"] in NOT_IN_MOTO:
                del transformed["Resources"][name]
            # CloudFormation gives a FIFO queue a name that ends so; moto does not.
            if resource["Type"] == "AWS::SQS::Queue" and resource["Properties"].get("FifoQueue"):
                resource["Properties"]["QueueName"] = f"{form['StackName']}-{name}.fifo"
            if resource["Type"] == "AWS::Lambda::Function":
                code = resource["Properties"]["Code"]
                bucket, key = (filled(code[part], values) for part in ("S3Bucket", "S3Key"))
                self._object(region, f"https://s3.{region}.amazonaws.com/{bucket}/{key}")
        transformed["Outputs"]["WebhookUrl"]["Value"] = webhook_url(region)
        form = {name: value for name, value in form.items() if not name.startswith(("Parameters.", "TemplateURL"))}
        form["TemplateBody"] = json.dumps(transformed)
        for number, (name, value) in enumerate(values.items(), 1):
            form |= {f"Parameters.member.{number}.ParameterKey": name, f"Parameters.member.{number}.ParameterValue": value}
        return urlencode(form).encode()

    def _object(self, region: str, url: str) -> bytes:
        """An object that CloudFormation reads for a stack of this Region."""
        host, path = urlsplit(url).hostname, urlsplit(url).path
        bucket, _, key = path.removeprefix("/").partition("/")
        assert host == f"s3.{region}.amazonaws.com", url
        buckets = s3_backends[NUMBER]["aws"].buckets
        if bucket not in buckets or buckets[bucket].region_name != region or key not in buckets[bucket].keys:
            raise Refused("ValidationError", f"S3 error: The specified key does not exist: {bucket}/{key}")
        return buckets[bucket].keys[key].value

    @staticmethod
    def _parameters(form: dict[str, str], template: dict, previous: dict[str, str]) -> dict[str, str]:
        """The values of all parameters, those that the form does not name included."""
        declared, values = template["Parameters"], {}
        numbers = [name.split(".")[2] for name in form if re.fullmatch(r"Parameters\.member\.\d+\.ParameterKey", name)]
        given = {form[f"Parameters.member.{number}.ParameterKey"]: form.get(f"Parameters.member.{number}.ParameterValue")
                 for number in numbers}
        if unknown := given.keys() - declared.keys():
            raise Refused("ValidationError", f"Parameters: {sorted(unknown)} do not exist in the template")
        for name, declaration in declared.items():
            # Without a value there: UsePreviousValue.
            value = previous.get(name) if name in given and given[name] is None else given.get(name, declaration.get("Default"))
            if value is None:
                raise Refused("ValidationError", f"Parameters: [{name}] must have values")
            values[name] = ",".join(value) if isinstance(value, list) else str(value)
            problem = Account._problem(values[name], declaration)
            if problem:
                raise Refused("ValidationError", f"Parameter '{name}' {problem}")
        return values

    @staticmethod
    def _problem(value: str, declaration: dict) -> str:
        if len(value.encode()) > LONGEST_PARAMETER:
            return f"must have at most {LONGEST_PARAMETER} bytes"
        if value not in [str(allowed) for allowed in declaration.get("AllowedValues", [value])]:
            return f"must be one of AllowedValues; {value!r} is not"
        if not re.fullmatch(declaration.get("AllowedPattern", ".*"), value, re.DOTALL):
            return declaration.get("ConstraintDescription", "failed to satisfy constraint: Member must satisfy pattern")
        if len(value) < int(declaration.get("MinLength", 0)):
            return "must contain at least one character"
        return ""

    def _fail(self, region: str, body: bytes) -> tuple[int, dict, bytes]:
        """The change set is executed, a resource fails, others are cancelled, and everything is undone."""
        form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
        stack = self.stack(form["StackName"], region)
        verb = "CREATE" if stack.status == "REVIEW_IN_PROGRESS" else "UPDATE"
        logical, reason = self.fails
        for name, status, text in ((stack.name, f"{verb}_IN_PROGRESS", "User Initiated"),
                                   (logical, f"{verb}_FAILED", reason),
                                   ("CopyRole", f"{verb}_FAILED", f"Resource {verb.lower()} cancelled"),
                                   (stack.name, f"{verb}_ROLLBACK_IN_PROGRESS", f"[{logical}] failed")):
            stack.events.append(Event(stack.stack_id, stack.name, name, name, "AWS::CloudFormation::Stack", status,
                                      resource_status_reason=text, resource_properties=None))
        change_set = cloudformation_backends[NUMBER][region].change_sets[form["ChangeSetName"]]
        stack.resource_map.resolved_parameters = change_set.parameters
        stack.status = "ROLLBACK_COMPLETE" if verb == "CREATE" else "UPDATE_ROLLBACK_COMPLETE"
        return 200, {}, (b'<ExecuteChangeSetResponse xmlns="http://cloudformation.amazonaws.com/doc/2010-05-15/">'
                         b"<ExecuteChangeSetResult/></ExecuteChangeSetResponse>")


def webhook_url(region: str) -> str:
    return f"https://a1b2c3d4e5.execute-api.{region}.amazonaws.com/webhook"


def listed(form: dict[str, str], name: str) -> list[str]:
    return [value for key, value in form.items() if re.fullmatch(rf"{name}\.member\.\d+", key)]


def filled(value: object, values: dict[str, str]) -> str:
    """A text of the template in which parameters alone stand."""
    match value:
        case {"Ref": name}:
            return values[name]
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{(\w+)}", lambda match: values[match[1]], text)
    return value


def name_of(service: str, method: str, host: str, target: str, headers: dict[str, str], body: bytes) -> str:
    """`service:Operation`, as IAM writes it."""
    if "X-Amz-Target" in headers:
        return f"{service}:{headers['X-Amz-Target'].rpartition('.')[2]}"
    if service in ("cloudformation", "sts"):
        return f"{service}:{parse_qs(body.decode())['Action'][0]}"
    if service == "lambda" and target.endswith("/invocations"):
        return "lambda:Invoke"
    assert service == "s3", (service, target)
    path, query = urlsplit(target).path, urlsplit(target).query
    # The bucket is in the host's name or the path's first part.
    key = path.removeprefix("/") if host.split(".")[0] != "s3" else path.removeprefix("/").partition("/")[2]
    if key:
        return f"s3:{method.capitalize()}Object"
    operations = {"PUT": "CreateBucket", "HEAD": "HeadBucket", "GET": "ListBucket", "DELETE": "DeleteBucket"}
    parts = {"publicAccessBlock": "PutPublicAccessBlock", "tagging": "PutBucketTagging"}
    return f"s3:{parts.get(query.partition('=')[0]) or operations[method]}"


def refusal(service: str, refused: Refused) -> tuple[int, dict, bytes]:
    """The error in the form of the service's protocol."""
    code, message = escape(refused.code), escape(refused.message)
    match service:
        case "secretsmanager" | "lambda":
            return (refused.status, {"Content-Type": "application/json", "X-Amzn-ErrorType": refused.code},
                    json.dumps({"__type": refused.code, "message": refused.message}).encode())
        case "s3":
            return refused.status, {}, f"<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()
    return refused.status, {}, (f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message>"
                                "</Error></ErrorResponse>").encode()


class Proxy(BaseHTTPRequestHandler):
    """Ends the TLS of each host itself, and hands the requests to the account."""

    protocol_version = "HTTP/1.1"

    def do_CONNECT(self):
        self.host = self.path.rpartition(":")[0]
        self.send_response(200)
        self.end_headers()
        self.connection = self.server.account.authority.context(self.host).wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", buffering=0)
        self.close_connection = False

    def serve(self):
        if not hasattr(self, "host"):
            self.server.account.calls.append("http: " + self.path)
            return self.send_error(404)
        body = self._body()
        headers = dict(self.headers.items())
        status, answer, content = self.server.account.serve(self.command, self.host, self.path, headers, body)
        length = answer.pop("Content-Length", str(len(content)))
        self.send_response(status)
        for name, value in answer.items():
            if name.lower() not in ("connection", "server", "date", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        self.close_connection = self.close_connection or int(length) != len(content)

    def _body(self) -> bytes:
        """Newer versions of the AWS CLI send chunks to S3, since they don't know the checksum at first."""
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while length := int(self.rfile.readline(), 16):
            body += self.rfile.read(length)
            self.rfile.readline()
        self.rfile.readline()
        return body

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = serve

    def log_message(self, *_):
        """Nothing on the terminal of the tests."""


@contextmanager
def proxy(account: Account):
    """Gives the proxy's URL while the account is reached through it."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        server.account, server.daemon_threads = account, True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
