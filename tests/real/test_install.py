"""install.sh from a release that is made here to a deployed stack: bash, the AWS CLI and curl are the real ones, and what they
reach of the network is one account and GitHub's downloads, as account.py has them."""

import hashlib
import json
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from samtranslator.translator.transform import transform
from samtranslator.yaml_helper import yaml_parse

from account import LONGEST_PARAMETER, NUMBER, Account, Authority, Refused, proxy, webhook_url
from conftest import CHECKOUT, run
from stack import NoManagedPolicies

REGION = "eu-west-3"
VERSION, NEXT = "1.2.3", "1.2.4"
REPOSITORY = "acme/ghcr-to-ecr"
# Version 2, which Debian has; what a Python environment has of that name may be version 1.
AWS = Path("/usr/bin/aws")
# For everything that one run starts.
SECONDS = 180

TOKEN = "ghp_test0test1test2test3test4test5test6te"
SCRIPT = (CHECKOUT / "install.sh").read_text()
BUCKET = f"ghcr-to-ecr-{NUMBER}-{REGION}"
SOURCE = ["--source", "acme/*", "--destination", "prod/{name}"]

FINE = {"outcome": "current", "checks": [
    {"check": "rules", "status": "ok", "detail": 'RULES: 1 rule, for "acme/*"\u001b[2J\u001b]0;title\u0007', "remedy": ""},
    {"check": "token", "status": "warning", "detail": "it expires in 3 days", "remedy": "make a new one"}]}
WRONG = {"outcome": "failed", "checks": FINE["checks"] + [
    {"check": "destination prod/api", "status": "failed", "detail": "the repository does not exist",
     "remedy": "create it with `aws ecr create-repository --repository-name prod/api`"}]}

# Writes down what it is called with and what it could read in its environment, then is the AWS CLI.
WATCHED_AWS = f"""#!/bin/sh
{{ printf '%s\\n' "$@"; echo --; }} >>"$RECORD/arguments"
env >>"$RECORD/environment"
exec {AWS} "$@"
"""


def zips(folder: Path, version: str) -> list[Path]:
    return [folder / f"ghcr-to-ecr-lambda-{version}-{architecture}.zip" for architecture in ("arm64", "x86_64")]


def sum_up(folder: Path) -> None:
    files = sorted(file for file in folder.iterdir() if file.name != "SHA256SUMS")
    (folder / "SHA256SUMS").write_text(
        "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files))


@pytest.fixture(scope="session")
def releases(tmp_path_factory) -> Path:
    """A folder for each of two versions, with all that install.sh reads of a release. Where the function has been built, its binary
    is in the zips."""
    folder = tmp_path_factory.mktemp("releases")
    built = CHECKOUT / ".tools/sam/CopyFunction/bootstrap"
    binary = built if built.exists() else Path(__file__)
    run(sys.executable, CHECKOUT / "deploy/package.py", binary, folder / "function.zip")
    for version in (VERSION, NEXT):
        (folder / version).mkdir()
        for archive in zips(folder / version, version):
            shutil.copy(folder / "function.zip", archive)
        (folder / version / "template.yaml").write_text(run(sys.executable, CHECKOUT / "deploy/release/template.py", version))
        sum_up(folder / version)
    return folder


@pytest.fixture(scope="session")
def authority(tmp_path_factory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def account(authority) -> Account:
    account = Account(authority)
    account.answers = {"CopyFunction": FINE, "WebhookFunction": FINE}
    return account


class Shell:
    """A shell of somebody who has the AWS CLI, in a folder of its own."""

    def __init__(self, folder: Path, account: Account, proxy: str):
        self.folder, self.account = folder, account
        for name in ("bin", "record", "temporary", "home"):
            (folder / name).mkdir()
        self.command("aws", WATCHED_AWS)
        (folder / "install.sh").write_text(SCRIPT)
        certificates = str(account.authority.file)
        self.environment = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary"),
            "RECORD": str(folder / "record"), "HTTPS_PROXY": proxy, "AWS_CA_BUNDLE": certificates, "CURL_CA_BUNDLE": certificates,
            "AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true", "AWS_MAX_ATTEMPTS": "1", "LANG": "C.UTF-8",
        }

    def command(self, name: str, text: str) -> None:
        (self.folder / "bin" / name).write_text(text)
        (self.folder / "bin" / name).chmod(0o755)

    def release(self, version: str, folder: Path) -> None:
        """This release's install.sh, and its files at GitHub."""
        text = SCRIPT.replace("\nVERSION=\n", f"\nVERSION={version}\n").replace("\nREPOSITORY=\n", f"\nREPOSITORY={REPOSITORY}\n")
        assert text.count(f"\nVERSION={version}\nREPOSITORY={REPOSITORY}\n") == 1
        (self.folder / "install.sh").write_text(text)
        for file in folder.iterdir():
            self.account.downloads[f"/{REPOSITORY}/releases/download/v{version}/{file.name}"] = file.read_bytes()

    def __call__(self, *arguments: object, status: int = 0, script: str | None = None, **environment: str | None):
        """Runs install.sh, without a terminal, and gives what it printed."""
        self.account.calls.clear()
        command = ["bash", "-s", "--"] if script is not None else ["bash", "install.sh"]
        done = subprocess.run([*command, *map(str, arguments)], input=script or "", text=True, capture_output=True,
                              cwd=self.folder, env=self.merged(environment), timeout=SECONDS, start_new_session=True)
        printed = done.stdout + done.stderr
        assert done.returncode == status, f"{done.returncode}\n{printed}\n{self.account.calls}"
        assert not list((self.folder / "temporary").iterdir())
        return printed

    def merged(self, environment: dict[str, str | None]) -> dict[str, str]:
        return {name: value for name, value in (self.environment | environment).items() if value is not None}

    def recorded(self, name: str) -> str:
        return (self.folder / "record" / name).read_text()


@pytest.fixture
def shell(tmp_path, account):
    with proxy(account) as url:
        yield Shell(tmp_path, account, url)


def parameters(account: Account, stack: str = "ghcr-to-ecr") -> dict[str, str]:
    return account.stack(stack, REGION).stack_parameters


def outcome_of(account: Account, stack: str = "ghcr-to-ecr") -> str | None:
    found = account.stack(stack, REGION)
    return found and found.status


CHANGES = re.compile(r":(Create|Put|Delete|Execute|Restore|Tag|Update)")


def changes(account: Account) -> list[str]:
    """What a run has changed in the account, and what it has tried to."""
    return [call for call in account.calls if CHANGES.search(call)]


def paste(shell: Shell, command: str) -> None:
    """Runs what install.sh has printed, in the same shell, where gh is logged in."""
    done = subprocess.run(["bash", "-c", command], cwd=shell.folder, text=True, capture_output=True, timeout=SECONDS,
                          env=shell.environment | {"GH_TOKEN": "gho_owner", "SSL_CERT_FILE": shell.environment["CURL_CA_BUNDLE"]})
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_release_is_installed_found_unchanged_upgraded_and_removed(shell, account, releases):
    shell.release(VERSION, releases / VERSION)
    printed = shell(*SOURCE, "--tag", "team=a b", "--tag", "owner=ops", "--parameter", "LogLevel=WARN", GHCR_TOKEN=TOKEN)

    # The answers became parameters, and the code is where the template looks for it.
    deployed = parameters(account)
    assert json.loads(deployed["Rules"]) == [{"source": "acme/*", "destination": "prod/{name}"}]
    assert deployed["DestinationRepositories"] == [f"arn:aws:ecr:{REGION}:{NUMBER}:repository/prod/*"]
    assert (deployed["ManageRepositories"], deployed["LogLevel"], deployed["ScheduleState"]) == ("false", "WARN", "DISABLED")
    assert (deployed["CodeBucket"], deployed["CodePrefix"]) == (BUCKET, "ghcr-to-ecr/ghcr-to-ecr/")
    archive = releases / VERSION / f"ghcr-to-ecr-lambda-{VERSION}-arm64.zip"
    assert account.object(BUCKET, f"ghcr-to-ecr/ghcr-to-ecr/{archive.name}") == archive.read_bytes()
    assert account.bucket(BUCKET).public_access_block.block_public_acls is True
    assert account.stack("ghcr-to-ecr", REGION).tags == {"application": "ghcr-to-ecr", "team": "a b", "owner": "ops"}
    # The secrets are the stack's, and nobody else's.
    assert account.secret(deployed["GhcrTokenSecretArn"]) == TOKEN
    webhook_secret = account.secret(deployed["WebhookSecretArn"])
    assert re.fullmatch("[0-9a-f]{64}", webhook_secret)
    assert account.payloads == [("CopyFunction", {"check": True}), ("WebhookFunction", {"check": True})]
    # What to do next can be pasted.
    assert f"Webhook URL: {webhook_url(REGION)}\n" in printed
    paste(shell, re.search(r"   aws secretsmanager get-secret-value (.|\n)+?@-'\n", printed)[0])
    assert account.webhooks == [("/orgs/acme/hooks", {
        "name": "web", "active": True, "events": ["package"],
        "config": {"url": webhook_url(REGION), "content_type": "json", "secret": webhook_secret}})]
    assert 'ok       rules: RULES: 1 rule, for "acme/*"' in printed
    assert "warning  token: it expires in 3 days\n           -> make a new one\n" in printed
    # Nobody who looks at processes, terminals or folders learns the secrets, and no terminal obeys an answer.
    for secret in (TOKEN, webhook_secret):
        assert secret not in printed + shell.recorded("arguments") + shell.recorded("environment")
    assert "\x1b" not in printed and "\x07" not in printed

    # The same once more, as it comes out of a pipe, changes nothing.
    printed = shell(script=(shell.folder / "install.sh").read_text())
    assert f"There was nothing to change: release {VERSION} is deployed." in printed
    assert "cloudformation:ExecuteChangeSet" not in account.calls
    assert not [call for call in changes(account) if call.startswith("secretsmanager:")]
    assert parameters(account) == deployed
    assert "What to do next" not in printed

    # The next release keeps what nobody names.
    shell.release(NEXT, releases / NEXT)
    printed = shell("--parameter", "ScheduleState=ENABLED", "--tag", "team=c")
    assert f"Release {NEXT} is deployed." in printed
    assert parameters(account) == deployed | {"ScheduleState": "ENABLED"}
    assert account.code(REGION) == {(BUCKET, f"ghcr-to-ecr/ghcr-to-ecr/ghcr-to-ecr-lambda-{NEXT}-arm64.zip")}
    assert account.stack("ghcr-to-ecr", REGION).tags == {"application": "ghcr-to-ecr", "team": "c", "owner": "ops"}
    assert account.secret(deployed["WebhookSecretArn"]) == webhook_secret

    # What is shown of it later, where something is wrong by then.
    account.answers["CopyFunction"] = WRONG
    account.answers["WebhookFunction"] = {"errorType": "Runtime.ExitError", "errorMessage": "setting RULES is malformed"}
    printed = shell("status", status=3)
    assert "failed   destination prod/api: the repository does not exist\n           -> create it with `aws ecr" in printed
    assert "failed   setting RULES is malformed" in printed
    assert f"test again with `install.sh status --region {REGION}`" in printed
    assert not changes(account)

    # Without a yes nothing goes, and then everything that was made goes.
    assert "--yes" in shell("remove", status=2)
    assert not changes(account)
    printed = shell("remove", "--yes")
    assert outcome_of(account) is None and account.bucket(BUCKET) is None
    assert account.secret(deployed["GhcrTokenSecretArn"]) is account.secret(deployed["WebhookSecretArn"]) is None
    assert "images and repositories in ECR" in printed
    assert f"aws secretsmanager restore-secret --region {REGION} --secret-id ghcr-to-ecr/webhook\n" in printed
    assert len(re.findall("aws sqs delete-queue .*(?:DeadLetterQueue|FailureQueue)", printed)) == 2

    # Again there is nothing left; and another installation has the secret back that GitHub knows.
    shell("remove", "--yes")
    assert not changes(account)
    account.refuses["cloudformation:CreateChangeSet"] = Refused("ValidationError", "enough seen")
    shell(*SOURCE, "--no-token", status=1)
    assert account.secret("ghcr-to-ecr/webhook") == webhook_secret


RULES = """[
  {"source": "acme/{api,web}", "destination": ["prod/{name}", "prod/{name}:{tag}-{digest8}"],
   "tags": {"include": ["v*", "it's, so = \\"quoted\\" $HOME `id` ü"], "exclude": ["pr-*"]}}
]"""
REPOSITORIES = f"arn:aws:ecr:{REGION}:{NUMBER}:repository/prod/*,arn:aws:ecr:{REGION}:{NUMBER}:repository/a/*"


def test_two_stacks_of_one_account_do_not_touch_each_other_and_rules_arrive_as_written(shell, account, releases, tmp_path):
    rules = tmp_path / "the rules.json"
    rules.write_text(RULES)
    account.create_secret("shared/ghcr", '{"token": "ghp_x"}')
    account.create_secret("shared/webhook", "text")
    fromhere = ["--from", releases / VERSION]
    two = [*fromhere, "--stack", "one-more", "--rules", rules, "--parameter", f"DestinationRepositories={REPOSITORIES}"]
    shell(*fromhere, "--stack", "one", *SOURCE, "--create-repositories", "--no-token")
    printed = shell(*two, "--token-secret", "shared/ghcr", "--webhook-secret", "shared/webhook", "--architecture", "x86_64")

    one, deployed = parameters(account, "one"), parameters(account, "one-more")
    assert json.loads(one["Rules"]) == [
        {"source": "acme/*", "destination": "prod/{name}", "repository": {"create": True}}]
    assert one["ManageRepositories"] == "true"
    assert deployed["Rules"] == RULES and deployed["DestinationRepositories"] == REPOSITORIES.split(",")
    assert deployed["GhcrTokenSecretArn"].startswith(f"arn:aws:secretsmanager:{REGION}:{NUMBER}:secret:shared/ghcr-")
    assert deployed["WebhookSecretArn"].startswith(f"arn:aws:secretsmanager:{REGION}:{NUMBER}:secret:shared/webhook-")
    assert "gh api orgs/OWNER/hooks" in printed and f"install.sh install --stack one-more --region {REGION}" in printed

    # The other stack's code stays, and so does the bucket.
    printed = shell("remove", "--stack", "one", "--yes")
    assert outcome_of(account, "one") is None and outcome_of(account, "one-more") == "CREATE_COMPLETE"
    assert {key.split("/")[1] for key in account.bucket(BUCKET).keys} == {"one-more"}
    assert f"The S3 bucket {BUCKET} stays" in printed

    # Rules that no parameter can hold; the processor stays what it was.
    rules.write_text(json.dumps([{"source": f"acme/{number}", "destination": "prod/{name}"} for number in range(200)]))
    assert len(rules.read_text()) > LONGEST_PARAMETER
    shell(*two)
    deployed = parameters(account, "one-more")
    assert (deployed["Rules"], deployed["Architecture"]) == ("secret:one-more/rules", "x86_64")
    assert account.secret(deployed["RulesSecretArn"]) == rules.read_text()
    # Secrets that others have made are not the script's to delete.
    shell("remove", "--stack", "one-more", "--yes")
    assert account.secret("shared/ghcr") and account.secret("shared/webhook") and account.secret(deployed["RulesSecretArn"]) is None


@pytest.mark.parametrize(("destination", "expected"), [
    ("prod/api", f"arn:aws:ecr:{REGION}:{NUMBER}:repository/prod/api"),
    ("{owner}/{name}:{tag}-{digest8}", f"arn:aws:ecr:{REGION}:{NUMBER}:repository/*/*"),
    ("210987654321.dkr.ecr.us-east-1.amazonaws.com/dr/{basename}:Stable", "arn:aws:ecr:us-east-1:210987654321:repository/dr/*"),
])
def test_the_function_may_push_to_what_the_destination_names_and_nowhere_else(shell, account, releases, destination, expected):
    account.refuses["s3:HeadBucket"] = Refused("Forbidden", "Forbidden", 403)
    printed = shell("--source", "ghcr.io/Acme/API", "--destination", destination, "--no-token", "--from", releases / VERSION,
                    status=1)

    assert f'\nRules: [{{"source": "acme/api", "destination": "{destination}"}}]\nThe function may push to {expected}\n' in printed


def replaced(name: str, old: bytes, new: bytes):
    def change(folder: Path, shell: Shell) -> None:
        content = (folder / name).read_bytes()
        assert old in content
        (folder / name).write_bytes(content.replace(old, new, 1))
    return change


def tampered(folder: Path, shell: Shell) -> None:
    archive = zips(folder, VERSION)[0]
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)


def missing(folder: Path, shell: Shell) -> None:
    zips(folder, VERSION)[0].unlink()


def broken_off(folder: Path, shell: Shell) -> None:
    shell.account.broken_off.add(f"/{REPOSITORY}/releases/download/v{VERSION}/{zips(folder, VERSION)[0].name}")


def twice(folder: Path, shell: Shell) -> None:
    sums = folder / "SHA256SUMS"
    sums.write_text(sums.read_text() * 2)


@pytest.mark.parametrize(("change", "words"), [
    (tampered, "arm64.zip from .* is not the file of the release: its SHA-256 is [0-9a-f]{64}, and SHA256SUMS says"),
    (replaced("template.yaml", b"Default: DISABLED", b"Default: ENABLED "), "template.yaml from .* is not the file of the release"),
    (replaced("SHA256SUMS", b"-arm64.zip", b"-arm65.zip"), "SHA256SUMS of .* has no sum of .*-arm64.zip"),
    (twice, "has no sum of template.yaml, or not one"),
    (missing, "-arm64.zip could not be downloaded: look whether there is such a release"),
    (broken_off, "-arm64.zip could not be downloaded"),
], ids=["tampered zip", "tampered template", "no sum", "two sums", "missing file", "half a file"])
def test_what_is_not_the_release_is_not_deployed(shell, account, releases, tmp_path, change, words):
    folder = tmp_path / "release"
    shutil.copytree(releases / VERSION, folder)
    change(folder, shell)
    shell.release(VERSION, folder)
    printed = shell(*SOURCE, "--no-token", status=1)

    assert re.search(words, printed)
    assert account.calls == ["sts:GetCallerIdentity", "cloudformation:DescribeStacks"]


def test_a_release_is_never_read_from_the_network_in_the_clear(shell, account):
    assert "only https is safe" in shell(*SOURCE, "--from", "http://mirror.example.com/ghcr-to-ecr", status=2)
    # Nor where GitHub's answer says so.
    shell.release(VERSION, Path(shell.folder / "home"))
    account.redirect = shell.environment["HTTPS_PROXY"]
    account.downloads[f"/{REPOSITORY}/releases/download/v{VERSION}/SHA256SUMS"] = b""
    assert "could not be downloaded" in shell(*SOURCE, "--no-token", status=1)
    assert not [call for call in account.calls if call.startswith("http:")]


# GitHub's command, whether it can ask so precisely and is logged in, and what it says of a file.
GH = """#!/bin/sh
printf '%s\\n' "$*" >>"$RECORD/gh"
case $* in 'attestation verify --help') echo '      {options}  string' ;; auth*) exit {logged_in} ;; attestation*) echo 'verifying with policy failed' >&2; exit {verified} ;; esac
"""


@pytest.mark.parametrize(("options", "logged_in", "verified", "words"), [
    ("--source-ref", 0, 0, f"Built by {REPOSITORY} from the tag v{VERSION}, as GitHub confirms"),
    ("--source-ref", 0, 1, "verifying with policy failed\ninstall.sh: GitHub does not confirm that template.yaml was built by"),
    ("--source-ref", 1, 0, "Who built it was not checked"),
    ("--repo", 0, 1, "Who built it was not checked")], ids=["built by it", "built by somebody", "not logged in", "an old gh"])
def test_github_is_asked_who_built_it_where_its_command_is_logged_in(shell, account, releases, options, logged_in, verified,
                                                                         words):
    shell.release(VERSION, releases / VERSION)
    shell.command("gh", GH.format(options=options, logged_in=logged_in, verified=verified))
    account.refuses["s3:HeadBucket"] = Refused("Forbidden", "Forbidden", 403)
    assert words in shell(*SOURCE, "--no-token", status=1)

    asked = re.findall(r"attestation verify \S+/(\S+\.\S+) (.+)", shell.recorded("gh"))
    policy = (f"--repo {REPOSITORY} --signer-workflow {REPOSITORY}/.github/workflows/release.yml --source-ref refs/tags/v{VERSION} "
              "--deny-self-hosted-runners")
    files = [("template.yaml", policy), (f"ghcr-to-ecr-lambda-{VERSION}-arm64.zip", policy)]
    assert asked == ([] if options != "--source-ref" or logged_in else files[:1] if verified else files)
    # Where it says no, nothing further is asked of AWS.
    assert ("s3:HeadBucket" in account.calls) == (asked != files[:1])


@pytest.mark.parametrize(("arguments", "words"), [
    (["--sauce", "acme/*"], "there is no argument --sauce"),
    (["--source"], "--source needs a value"),
    (["--source", "acme"], "--source is 'acme'; expected owner/name without a tag"),
    (["--source", "acme/api:1.2.3"], "expected owner/name without a tag"),
    (["--source", 'acme/"x'], "expected owner/name"),
    (["--destination", "prod/Api"], "--destination is 'prod/Api'; expected an ECR repository"),
    (["--destination", "docker.io/prod/api:latest:x"], "expected an ECR repository"),
    (["--rules", "nowhere.json"], "there is no file nowhere.json that can be read"),
    (["--rules", "install.sh", "--source", "acme/*"], "--rules takes the place of --source"),
    (["--stack", "my stack"], "--stack is 'my stack'"),
    (["--architecture", "arm"], "expected arm64 or x86_64"),
    (["--version", "latest"], "expected a version such as 1.2.3"),
    (["--tag", "a=b,c"], "--tag is 'a=b,c'"),
    (["--tag", "application=x"], "this one is application=ghcr-to-ecr"),
    (["--region", "Paris"], "--region is 'Paris'; expected a Region"),
])
def test_wrong_arguments_are_named_before_anything_is_asked_of_aws(shell, account, arguments, words):
    assert words in shell(*arguments, status=2)
    assert account.calls == []


@pytest.mark.parametrize(("arguments", "words"), [
    ([], "no argument says: --source --destination GHCR_TOKEN (or --token-secret, or --no-token)"),
    ([*SOURCE], "no argument says: GHCR_TOKEN"),
    (["--no-token", "--rules", "install.sh"], "--rules needs the repositories"),
    ([*SOURCE, "--no-token", "--parameter", "LogLevl=INFO"], "release 1.2.3 has no such parameter"),
    ([*SOURCE, "--no-token", "--parameter", "Rules=[]"], "the rules are --source and --destination"),
    ([*SOURCE, "--no-token", "--parameter", "Architecture=arm64"], "use --architecture"),
    ([*SOURCE, "--no-token", "--parameter", "GhcrTokenSecretArn=arn:x"], "an option says something else about the token"),
    ([*SOURCE, "--webhook-secret", "x", "--no-token", "--parameter", "WebhookSecretArn=arn:x"], "use --webhook-secret alone"),
    ([*SOURCE, "--create-repositories", "--no-token", "--parameter", "ManageRepositories=false"], "use --create-repositories alone"),
])
def test_without_a_terminal_what_no_argument_says_is_named(shell, account, releases, arguments, words):
    assert words in shell(*arguments, "--from", releases / VERSION, status=2)
    assert not changes(account)


@pytest.mark.parametrize("token", ["github_pat_11AAAA", "ghs_abc", "ghp_abc def"])
def test_a_token_that_ghcr_would_not_take_is_refused_and_not_shown(shell, account, releases, token):
    printed = shell(*SOURCE, "--from", releases / VERSION, status=2, GHCR_TOKEN=token)
    assert "classic personal access tokens" in printed or "this is no GitHub token" in printed
    assert token not in printed and not changes(account)


EXPIRED = Refused("ExpiredToken", "The security token included in the request is expired", 403)
UNKNOWN = Refused("InvalidClientTokenId", "The security token included in the request is invalid.", 403)
NO_KEYS = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}


@pytest.mark.parametrize(("refused", "environment", "words"), [
    (None, NO_KEYS, "the AWS CLI has no credentials: use AWS CloudShell"),
    (EXPIRED, {}, "the credentials have expired: run `aws sso login`"),
    (UNKNOWN, {}, "look in the console under *AWS Regions* whether this Region is enabled"),
    (None, {"AWS_REGION": "eu-west-9", "NO_PROXY": ".amazonaws.com"}, "AWS can't be reached in eu-west-9: is that the name of a Region"),
], ids=["none", "expired", "not accepted", "no such Region"])
def test_credentials_that_do_not_serve_are_named_with_what_to_do(shell, account, refused, environment, words):
    if refused:
        account.refuses["sts:GetCallerIdentity"] = refused
    assert words in shell(*SOURCE, "--no-token", status=1, **environment)
    assert not changes(account)


def test_without_a_region_one_is_asked_for(shell):
    assert "no Region is set: name one, such as --region" in shell(*SOURCE, "--no-token", status=2, AWS_REGION=None)


def test_without_the_aws_cli_it_is_named(shell, account):
    for name in ("bash", "tr", "mktemp", "rm", "cut", "grep", "cat"):
        (shell.folder / "home" / name).symlink_to(shutil.which(name))
    assert "there is no AWS CLI: use AWS CloudShell" in shell(*SOURCE, status=1, PATH=str(shell.folder / "home"))


def denied(operation: str) -> Refused:
    return Refused("AccessDeniedException", f"User: arn:aws:iam::{NUMBER}:user/somebody is not authorized to perform: {operation}")


def test_a_right_that_is_lacking_is_named(shell, account, releases):
    account.refuses["secretsmanager:CreateSecret"] = denied("secretsmanager:CreateSecret")
    printed = shell(*SOURCE, "--from", releases / VERSION, status=1, GHCR_TOKEN=TOKEN)

    assert "is not authorized to perform: secretsmanager:CreateSecret" in printed
    assert "lacks a right, which stands above: have an administrator grant it" in printed
    assert TOKEN not in printed and outcome_of(account) is None


def test_a_secret_that_is_not_there_is_named(shell, account, releases):
    printed = shell(*SOURCE, "--token-secret", "ghcr/tokn", "--from", releases / VERSION, status=1)
    assert f"there is no secret ghcr/tokn in account {NUMBER} and Region {REGION}" in printed
    assert outcome_of(account) is None


@pytest.mark.parametrize(("name", "environment", "options", "way_out"), [
    ("ghcr-token", {"GHCR_TOKEN": TOKEN}, [], "--token-secret ghcr-to-ecr/ghcr-token"),
    ("webhook", {}, ["--no-token"], "--webhook-secret ghcr-to-ecr/webhook")])
def test_a_secret_of_the_same_name_that_somebody_else_has_made_stays_as_it_is(shell, account, releases, name, environment, options,
                                                                              way_out):
    account.create_secret(f"ghcr-to-ecr/{name}", "somebody's")
    printed = shell(*SOURCE, *options, "--from", releases / VERSION, status=1, **environment)

    assert f"the secret ghcr-to-ecr/{name} was not made by install.sh, which leaves it alone: use it with {way_out}" in printed
    assert account.secret(f"ghcr-to-ecr/{name}") == "somebody's" and outcome_of(account) is None
    assert not [call for call in changes(account) if call.startswith("secretsmanager:")]


def test_the_repositories_that_are_named_beat_those_of_the_destination(shell, account, releases):
    account.fails = ("JobQueue", "enough seen")
    printed = shell(*SOURCE, "--no-token", "--from", releases / VERSION, "--parameter", f"DestinationRepositories={REPOSITORIES}",
                    status=1)
    assert "The function may push to" not in printed
    assert parameters(account)["DestinationRepositories"] == REPOSITORIES


def test_a_bucket_that_somebody_else_has_taken_gets_no_code(shell, account, releases):
    account.refuses["s3:HeadBucket"] = Refused("Forbidden", "Forbidden", 403)
    printed = shell(*SOURCE, "--no-token", "--from", releases / VERSION, status=1)
    assert f"the S3 bucket {BUCKET} can't be used: it belongs to another account" in printed
    assert not changes(account)


def test_the_first_failure_of_a_deployment_is_shown_and_the_way_out_of_it_works(shell, account, releases):
    account.fails = ("JobQueue", 'Resource handler returned message: "The quota is exceeded" (Service: Sqs)')
    arguments = [*SOURCE, "--no-token", "--from", releases / VERSION]
    printed = shell(*arguments, status=1)
    assert 'JobQueue: Resource handler returned message: "The quota is exceeded"' in printed and "cancelled" not in printed
    way_out = f"`install.sh remove --region {REGION} --keep-secrets`, then this again"
    assert f"The stack is now in ROLLBACK_COMPLETE; once the reason is removed, run {way_out}" in printed

    account.fails = None
    printed = shell(*arguments, status=1)
    assert f"the stack is in ROLLBACK_COMPLETE, from which it can only be deleted. Run {way_out}" in printed
    assert not changes(account)
    shell("remove", "--keep-secrets", "--yes")
    assert outcome_of(account) is None and account.secret("ghcr-to-ecr/webhook")


@pytest.mark.parametrize(("status", "words"), [
    ("UPDATE_IN_PROGRESS", "somebody else changes it. Wait until that is over"),
    ("UPDATE_ROLLBACK_FAILED", "aws cloudformation continue-update-rollback --stack-name ghcr-to-ecr"),
    ("DELETE_FAILED", "from which it can only be deleted")])
def test_a_stack_that_can_not_be_changed_now_is_left_alone(shell, account, releases, status, words):
    account.create_stack("ghcr-to-ecr", REGION, "DestinationRepositories", status)
    assert words in shell("--from", releases / VERSION, status=1)
    assert not changes(account)


def test_the_shell_of_a_stack_that_was_never_deployed_is_filled(shell, account, releases):
    account.create_stack("ghcr-to-ecr", REGION, "DestinationRepositories", "REVIEW_IN_PROGRESS")
    assert "no argument says: --source" in shell("--from", releases / VERSION, status=2)


@pytest.mark.parametrize("verb", ["install", "status", "remove"])
def test_the_stack_of_something_else_is_neither_replaced_nor_removed(shell, account, releases, verb):
    account.create_stack("ghcr-to-ecr", REGION, "Other", "CREATE_COMPLETE")
    words = "the stack ghcr-to-ecr is not one of ghcr-to-ecr"
    assert words in shell(verb, "--yes", "--from", releases / VERSION, *SOURCE, "--no-token", status=1)
    assert not changes(account) and outcome_of(account) == "CREATE_COMPLETE"


class Terminal:
    """install.sh on a terminal, and somebody who types."""

    def __init__(self, shell: Shell, *arguments: object):
        self.seen = ""
        self.process, self.descriptor = pty.fork()
        if not self.process:
            os.chdir(shell.folder)
            os.execve("/bin/bash", ["bash", "install.sh", *map(str, arguments)], shell.merged({}))

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.descriptor)[3] & termios.ECHO)

    def wait_for(self, words: str) -> None:
        while words not in self.seen and self._read():
            pass
        assert words in self.seen, self.seen

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def end(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])

    def _read(self) -> bool:
        ready, _, _ = select.select([self.descriptor], [], [], SECONDS)
        assert ready, self.seen
        try:
            chunk = os.read(self.descriptor, 4096)
        except OSError:
            # Linux's answer where nobody has the other end any more.
            chunk = b""
        self.seen += chunk.decode(errors="replace")
        return bool(chunk)


def test_three_questions_on_a_terminal_and_the_token_is_not_on_it(shell, account, releases):
    # What an installation left that had not the right to go on is taken up.
    account.refuses["cloudformation:CreateChangeSet"] = denied("cloudformation:CreateChangeSet")
    printed = shell(*SOURCE, "--no-token", "--from", releases / VERSION, status=1)
    assert "is not authorized to perform: cloudformation:CreateChangeSet" in printed and "lacks a right" in printed
    account.refuses.clear()

    terminal = Terminal(shell, "--from", releases / VERSION)
    terminal.wait_for("Which packages at ghcr.io are copied? For example acme/api, or acme/* for all of acme\r\n> ")
    assert terminal.echoes()
    terminal.type("acme/*\n")
    terminal.wait_for(f"Into which ECR repository of {NUMBER} in {REGION}?")
    terminal.wait_for("name\r\n> ")
    terminal.type("prod/{name}\n")
    terminal.wait_for("The classic GitHub token")
    terminal.wait_for("holds it)\r\n> ")
    assert not terminal.echoes()
    terminal.type(TOKEN + "\n")
    terminal.wait_for("Rules: ")
    assert terminal.echoes()

    assert terminal.end() == 0, terminal.seen
    assert TOKEN not in terminal.seen + shell.recorded("arguments") + shell.recorded("environment")
    assert account.secret(parameters(account)["GhcrTokenSecretArn"]) == TOKEN
    assert json.loads(parameters(account)["Rules"]) == [{"source": "acme/*", "destination": "prod/{name}"}]
    assert not list((shell.folder / "temporary").iterdir())

    # No is no, and so is anything but yes.
    account.calls.clear()
    terminal = Terminal(shell, "remove")
    terminal.wait_for("Delete it? (yes or no)\r\n> ")
    terminal.type("y\n")
    assert terminal.end() == 1 and "nothing was deleted" in terminal.seen
    assert not changes(account)


def test_who_gives_up_at_the_token_has_a_terminal_that_shows_what_is_typed(shell, account, releases):
    terminal = Terminal(shell, *SOURCE, "--from", releases / VERSION)
    terminal.wait_for("holds it)\r\n> ")
    assert not terminal.echoes()
    terminal.type("\x03")
    # The terminal itself is there as long as this test holds it.
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.process, 0)[1]) == 130
    assert terminal.echoes()
    assert not changes(account) and not list((shell.folder / "temporary").iterdir())


def test_a_script_that_arrived_in_part_does_nothing(shell, account):
    lines = SCRIPT.splitlines(keepends=True)
    ends = {len(SCRIPT) - cut for cut in range(1, 25)} | {len("".join(lines[:line])) for line in range(0, len(lines), 20)}
    for end in sorted(ends):
        subprocess.run(["bash", "-s", "--", *SOURCE, "--no-token"], input=SCRIPT[:end], text=True, capture_output=True,
                       cwd=shell.folder, env=shell.environment, timeout=SECONDS, start_new_session=True)
        whole = end >= len(SCRIPT.rstrip())
        assert (shell.folder / "record/arguments").exists() == whole, SCRIPT[:end][-80:]


def test_another_shell_is_told_that_it_is_for_bash(shell):
    done = subprocess.run(["dash", "install.sh"], cwd=shell.folder, env=shell.environment, text=True, capture_output=True)
    assert (done.returncode, done.stderr) == (2, "install.sh is for bash: bash install.sh\n")


def test_the_help_names_every_option_that_there_is(shell):
    printed = shell("--help")
    options = set(re.findall(r"--[a-z-]+", SCRIPT[SCRIPT.index("read_arguments() {"):SCRIPT.index("check_arguments() {")]))
    assert options - {"--help"} == set(re.findall(r"--[a-z-]+", printed)) - {"--help"}


def test_shellcheck_is_content():
    run("shellcheck", "install.sh")


# What bash got after version 3.2, which is macOS's.
LATER = [r"\bmapfile\b", r"\breadarray\b", r"\bcoproc\b", r"(declare|local|typeset) -[a-z]*[Ang]", r"\$\{\w+(\^|,)", r"\|&", r"&>>",
         r"\$\{\w+@", r"\bEPOCH", r"printf -v", r"wait -n", r"\bBASHPID\b", r";;?&", r"\[\[ -v"]


@pytest.mark.parametrize("later", LATER)
def test_nothing_in_it_is_newer_than_the_bash_of_macos(later):
    code = "\n".join(line for line in SCRIPT.splitlines() if not line.lstrip().startswith("#"))
    assert not re.search(later, code), re.search(later, code)[0]


# The template of a release.

@pytest.fixture(scope="module")
def released() -> str:
    return run(sys.executable, CHECKOUT / "deploy/release/template.py", VERSION)


def test_the_linter_is_content_with_the_template_of_a_release(released, tmp_path):
    (tmp_path / "template.yaml").write_text(released)
    run("cfn-lint", tmp_path / "template.yaml")


def test_the_template_of_a_release_makes_what_the_template_makes():
    values = {"Rules": "[]", "DestinationRepositories": "arn:aws:ecr:eu-west-3:123456789012:repository/prod/*", "CodeBucket": "b"}

    def made(text: str) -> dict:
        template = yaml_parse(text)
        for declaration in template["Parameters"].values():
            declaration.pop("Description")
        template["Globals"]["Function"]["CodeUri"] = "s3://b/k"
        given = {name: str(values.get(name, declaration.get("Default", "")))
                 for name, declaration in template["Parameters"].items()}
        made = transform(template, given, NoManagedPolicies())
        for resource in made["Resources"].values():
            resource.pop("Metadata", None)
        return made

    own, of_release = made((CHECKOUT / "template.yaml").read_text()), made(
        run(sys.executable, CHECKOUT / "deploy/release/template.py", VERSION))
    assert own["Resources"] == of_release["Resources"] and own["Outputs"] == of_release["Outputs"]
    assert of_release["Parameters"].keys() - own["Parameters"].keys() == {"CodeBucket", "CodePrefix"}


def test_the_template_of_a_release_names_its_zip_and_builds_nothing(released):
    template = yaml_parse(released)
    assert template["Globals"]["Function"]["CodeUri"] == {
        "Bucket": {"Ref": "CodeBucket"},
        "Key": {"Fn::Sub": f"${{CodePrefix}}ghcr-to-ecr-lambda-{VERSION}-${{Architecture}}.zip"}}
    assert "BuildMethod" not in released
    groups = template["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
    assert sorted(name for group in groups for name in group["Parameters"]) == sorted(template["Parameters"])
    # Comments are for whoever deploys it.
    comments = [line for line in (CHECKOUT / "template.yaml").read_text().splitlines() if line.lstrip().startswith("#")]
    assert [line for line in comments if line not in released] == [
        "    # SAM builds once for functions whose metadata are the same."]


@pytest.mark.parametrize(("old", "new"), [
    ("    CodeUri: .\n", "    CodeUri: ./\n"), ("      BuildMethod: rust-cargolambda\n", ""), ("\nParameters:\n", "\nParams:\n")])
def test_a_template_that_has_changed_too_much_makes_no_release(tmp_path, old, new):
    (tmp_path / "deploy/release").mkdir(parents=True)
    shutil.copy(CHECKOUT / "deploy/release/template.py", tmp_path / "deploy/release")
    text = (CHECKOUT / "template.yaml").read_text()
    assert old in text
    (tmp_path / "template.yaml").write_text(text.replace(old, new, 1))
    done = subprocess.run([sys.executable, tmp_path / "deploy/release/template.py", VERSION], text=True, capture_output=True)
    assert done.returncode == 1 and done.stdout == "" and "has to follow the template" in done.stderr
