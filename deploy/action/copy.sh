#!/usr/bin/env bash
# Invokes the function from a workflow, waits until the image is in ECR, and tells what became of it: the one step of action.yml,
# which hands over its inputs as INPUT_…. Needs the AWS CLI, curl and jq, which GitHub's runners have, and bash 3.2, as on macOS.
set -euo pipefail
umask 077

# A text as the value of a workflow command, which is one line.
escaped() {
  local text=$1
  text=${text//'%'/%25}
  text=${text//$'\r'/%0D}
  printf '%s' "${text//$'\n'/%0A}"
}

mask() {
  [ -z "$1" ] || printf '::add-mask::%s\n' "$(escaped "$1")"
}

# Not in the environment, which each command gets. White space is no part of a token, and the log is searched for what is masked.
token=${INPUT_TOKEN//[[:space:]]/}
unset INPUT_TOKEN
mask "$token"

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
private=$(mktemp -d "$RUNNER_TEMP/ghcr-to-ecr.XXXXXX")
trap 'rm -rf "$private"' EXIT

random() {
  od -An -N16 -tx1 /dev/urandom | tr -d ' \n'
}

output() {
  local mark
  mark=$(random)
  printf '%s<<%s\n%s\n%s\n' "$1" "$mark" "$2" "$mark" >>"$GITHUB_OUTPUT"
}

# A sentence on the page of the run.
annotate() {
  printf '::%s title=ghcr-to-ecr::%s\n' "$1" "$(escaped "$2")"
}

fail() {
  annotate error "$1"
  output outcome failed
  exit 1
}

# Standard input on the log, as text alone: the runner looks for commands in every line but those between these two.
# (GitHub documentation, "Workflow commands for GitHub Actions")
show() {
  local mark
  mark=$(random)
  printf '::stop-commands::%s\n' "$mark"
  cat
  printf '\n::%s::\n' "$mark"
}

# One of the functions of report.jq, over the report.
told() {
  printf '%s' "$report" | jq -r -L "$here" "include \"report\"; $1"
}

# GitHub's own runners lose a connection that is silent for some minutes, and an invocation is silent until it ends. The AWS CLI
# can ask for signs of life, but the system sends the first after two hours. (aws/aws-cli issue 5783, "Invoke" in the Lambda API
# reference)
stay_connected() {
  export BOTOCORE_TCP_KEEPALIVE=true
  [ "${RUNNER_ENVIRONMENT-}" = github-hosted ] || return 0
  case ${RUNNER_OS-} in
    Linux) sudo -n sysctl -q -w net.ipv4.tcp_keepalive_time=60 >/dev/null 2>&1 || true ;;
    macOS) sudo -n sysctl -w net.inet.tcp.keepidle=60000 >/dev/null 2>&1 || true ;;
  esac
}

# Gives this process, and no other step, the role's credentials. GitHub's identity token ends after some minutes, so there is one for
# each invocation. No secret is an argument, as anybody on the machine can read those.
assume_role() {
  local identity credentials subject
  [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL-}" ] && [ -n "${ACTIONS_ID_TOKEN_REQUEST_TOKEN-}" ] ||
    fail "GitHub gives this job no identity token, which \`role\` needs: add \`id-token: write\` to the permissions of the job"
  identity=$(printf 'url = "%s&audience=sts.amazonaws.com"\nheader = "Authorization: Bearer %s"\n' \
    "$ACTIONS_ID_TOKEN_REQUEST_URL" "$ACTIONS_ID_TOKEN_REQUEST_TOKEN" |
    curl --silent --show-error --fail --max-time 30 --retry 3 --config - 2>"$private/problem" | jq -r '.value // empty') ||
    fail "GitHub gave no identity token: $(problem)"
  [ -n "$identity" ] || fail 'GitHub gave no identity token: its answer has none'
  mask "$identity"
  unset AWS_PROFILE AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
  if ! credentials=$(printf '%s' "$identity" | aws sts assume-role-with-web-identity --output json --duration-seconds 900 \
    --role-arn "$INPUT_ROLE" --role-session-name "ghcr-to-ecr-${GITHUB_RUN_ID:-run}" \
    --web-identity-token file:///dev/stdin 2>"$private/problem"); then
    subject=$(printf '%s' "$identity" | jq -rR 'split(".")[1] | gsub("-"; "+") | gsub("_"; "/") | @base64d | fromjson | .sub' 2>/dev/null) ||
      subject='a subject that can not be read'
    fail "the role $INPUT_ROLE can not be assumed: $(problem)
The role has to trust the identity provider token.actions.githubusercontent.com with the audience sts.amazonaws.com and the subject $subject"
  fi
  {
    read -r AWS_ACCESS_KEY_ID
    read -r AWS_SECRET_ACCESS_KEY
    read -r AWS_SESSION_TOKEN
  } < <(printf '%s' "$credentials" | jq -r '.Credentials | .AccessKeyId, .SecretAccessKey, .SessionToken')
  mask "$AWS_ACCESS_KEY_ID"
  mask "$AWS_SECRET_ACCESS_KEY"
  mask "$AWS_SESSION_TOKEN"
  export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN
}

# What the last command said of its failure.
problem() {
  tr '\n' ' ' <"$private/problem" | sed 's/^ *//; s/ *$//'
}

# The reply is in $private/reply, and on standard output whether it is that of a function error. An invocation takes up to 15 minutes;
# left to itself the AWS CLI gives up after one, and invokes again.
invoke() {
  printf '%s\n' "$token" "$1" |
    jq -cnR 'input as $token | input | fromjson | if $token == "" then . else .token = $token end' |
    AWS_MAX_ATTEMPTS=1 aws lambda invoke --output json --function-name "$INPUT_FUNCTION" --invocation-type RequestResponse \
      --cli-read-timeout 930 --payload fileb:///dev/stdin "$private/reply" 2>"$private/problem"
}

# A report of ours, where the function gives none: outcome, kind of the error, and what went wrong. The last may be longer than the
# system lets an argument or a variable of a command be.
unreported() {
  printf '%s' "$3" | EVENT=$event OUTCOME=$1 KIND=$2 jq -csR '. as $error | env.EVENT | fromjson | {
    outcome: env.OUTCOME, source: (.source // "\(.image):\(.tags | join(", "))"), error_kind: env.KIND, error: $error}'
}

# Copies what $event asks for, in as many invocations as it takes, and leaves the reply in $reply.
copy() {
  local attempt=1 pause=5 status kind reason
  while :; do
    [ -z "$INPUT_ROLE" ] || assume_role
    if ! status=$(invoke "$event"); then
      reason="the function $INPUT_FUNCTION could not be invoked: $(problem)"
      case $reason in
        # Lambda is busy, or the connection broke. What is refused stays refused.
        *TooManyRequestsException* | *ServiceException* | *ResourceConflictException* | *'timeout on'* | *'Connection was closed'*)
          kind=Transient ;;
        *AccessDenied*) kind=Denied ;;
        *ResourceNotFound*) kind=NotFound ;;
        *) kind=Invalid ;;
      esac
    elif [ "$(printf '%s' "$status" | jq -r '.FunctionError // empty')" = '' ]; then
      reply=$(jq -ce 'select(type == "object" and (.outcome | type) == "string")' "$private/reply" 2>/dev/null) ||
        reply=$(unreported failed Internal "the reply of $INPUT_FUNCTION is no report: is it the copy function of ghcr-to-ecr?")
      return
    else
      kind=$(jq -r '.errorType // "Internal"' "$private/reply" 2>/dev/null) || kind=Internal
      reason=$(jq -r '.errorMessage // "the function failed and gave no reason; its log may"' "$private/reply" 2>/dev/null) ||
        reason='the function failed, and its reply can not be read; its log may say why'
    fi
    case $kind in
      Deadline | Transient) ;;
      *) attempt=$INPUT_ATTEMPTS ;;
    esac
    if [ "$attempt" -ge "$INPUT_ATTEMPTS" ]; then
      case $kind in
        Deadline) reply=$(unreported deferred "$kind" "$reason") ;;
        *) reply=$(unreported failed "$kind" "$reason") ;;
      esac
      return
    fi
    attempt=$((attempt + 1))
    if [ "$kind" = Deadline ]; then
      printf 'The time of the invocation was up, and the copy is resumed: attempt %d of %d\n' "$attempt" "$INPUT_ATTEMPTS"
    else
      printf '%s' "$reason" | jq -rR -L "$here" 'include "report"; line' | show
      printf 'Attempt %d of %d follows in %d seconds\n' "$attempt" "$INPUT_ATTEMPTS" "$pause"
      sleep "$pause"
      pause=$((pause * 2 > 60 ? 60 : pause * 2))
    fi
  done
}

for command in aws curl jq; do
  command -v "$command" >/dev/null || fail "this runner has no $command, which the step needs"
done
[ -n "${INPUT_FUNCTION-}" ] || fail "\`function\` is empty: name the copy function, an output of the stack"
[[ $INPUT_ATTEMPTS =~ ^[1-9][0-9]?$ ]] || fail "\`attempts\` is '$INPUT_ATTEMPTS': expected a number from 1 to 99"
case $INPUT_FUNCTION in
  arn:*) region_of_function=$(printf '%s' "$INPUT_FUNCTION" | cut -d: -f4) ;;
  *) region_of_function= ;;
esac
region=${INPUT_REGION:-${region_of_function:-${AWS_REGION:-${AWS_DEFAULT_REGION-}}}}
[ -z "$region" ] || export AWS_REGION="$region" AWS_DEFAULT_REGION="$region"
export AWS_PAGER=

wanted=$(jq -n -f "$here/events.jq" 2>&1) || fail "$wanted"
left_out=$(printf '%s' "$wanted" | jq -r '.left_out | join(", ")')
[ -z "$left_out" ] || annotate notice "left out, as only one registry is copied from: $left_out"

stay_connected
while read -r event <&3; do
  copy
  printf '%s\n' "$reply" >>"$private/replies"
done 3< <(printf '%s' "$wanted" | jq -c '.events[]')

report=$(jq -s -c -L "$here" 'include "report"; combined' "$private/replies")
outcome=$(told .outcome)
told log | show
output outcome "$outcome"
output digest "$(told digest)"
output destination "$(told destination)"
output report "$report"
told summary >>"$GITHUB_STEP_SUMMARY"
while IFS=$'\t' read -r level text; do
  annotate "$level" "$text"
done < <(told annotations)

# As the laptop's command has it: who asks for an image by name wants it to be there.
case $outcome in
  copied | current | planned) ;;
  *) exit 1 ;;
esac
