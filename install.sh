#!/usr/bin/env bash
# Installs, upgrades and removes ghcr-to-ecr where there is the AWS CLI and nothing else, as in AWS CloudShell: downloads a
# release, checks its sums, puts it into S3 and deploys it with CloudFormation. `install.sh --help` says how.
# Runs in bash 3.2, which macOS has, and newer.
# shellcheck disable=SC2016 # what stands in backquotes in messages is for the reader to run
[ -n "${BASH_VERSION-}" ] || { echo 'install.sh is for bash: bash install.sh' >&2 && exit 2; }
set -euo pipefail

# A release fills these in. Without them the release has to be named: --from.
VERSION=
REPOSITORY=

USAGE='install.sh [install] [OPTIONS]   deploys ghcr-to-ecr, or upgrades it to this release
install.sh status [OPTIONS]      shows the webhook URL, and tests everything that the deployment needs
install.sh remove [OPTIONS]      deletes the deployment; images in ECR stay

A first installation asks three questions, as far as these options do not answer them:
  --source PATTERN       packages at GHCR, such as acme/api or acme/*
  --destination NAME     ECR repository, such as prod/api or prod/{name}; may begin with the registry of another account or Region
  GHCR_TOKEN             (environment) classic GitHub token with read:packages, which is stored in Secrets Manager;
                         or --token-secret ID for a secret that there is; or --no-token for public packages alone
An upgrade keeps what is not named.

Instead of --source and --destination:
  --rules FILE           rules as the README describes them; name the repositories too: --parameter DestinationRepositories=ARN,…

Options:
  --stack NAME           name of the CloudFormation stack (ghcr-to-ecr)
  --region REGION        AWS Region (that of the AWS CLI)
  --create-repositories  lets the function create missing ECR repositories
  --webhook-secret ID    a secret that there is, instead of a new one
  --architecture NAME    arm64 or x86_64 (arm64)
  --parameter NAME=VALUE any other parameter of template.yaml; may be repeated
  --tag NAME=VALUE       tag of everything that is created; may be repeated
  --bucket NAME          an S3 bucket of this account and Region for the code, instead of a new one
  --version VERSION      another release than that of this script
  --from URL-OR-FOLDER   where the files of the release are, for a mirror or an air-gapped account
  --keep-secrets         remove: leaves the secrets
  --yes                  remove: does not ask

Exit status: 0 done, 1 failed, 2 wrong arguments, 3 deployed, but the test of it found something that is to be put right.'

# The name of this tag says that this script has created a secret, and its value for which stack.
OWN_TAG=ghcr-to-ecr:stack
SECRETS='ghcr-token webhook rules'
# Lambda allows 4 KB for all environment variables. The others need some 700 bytes, which leaves room for more of them.
RULES_IN_PARAMETER=3000
RULES_IN_SECRET=65536

# Prints each argument on a line.
say() {
  printf '%s\n' "$@"
}

fail() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

misused() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 2
}

# Speaks to the AWS CLI. What it complains about is kept for `explain`.
try() {
  aws "$@" 2>"$work/complaint"
}

must() {
  try "$@" || explain
}

complaint_says() {
  grep --quiet --extended-regexp -e "$1" "$work/complaint"
}

show_complaint() {
  grep -v -e '^[[:space:]]*$' -e 'Uploading to ' "$work/complaint" >&2 || true
}

# Ends with the last complaint of the AWS CLI and what to do about it.
explain() {
  show_complaint
  if complaint_says 'Unable to locate credentials|NoCredentials'; then
    fail 'the AWS CLI has no credentials: use AWS CloudShell, which is logged in, or run `aws configure sso` once and then' \
      '`aws sso login`'
  elif complaint_says 'ExpiredToken|has expired|is expired|Error loading SSO Token|SSO session'; then
    fail 'the credentials have expired: run `aws sso login` (in CloudShell: reload the page), then the same command again'
  elif complaint_says 'InvalidClientTokenId|UnrecognizedClient|SignatureDoesNotMatch|AuthFailure'; then
    fail "AWS does not accept these credentials in $region: log in again, and look in the console under *AWS Regions* whether this" \
      'Region is enabled for the account'
  elif complaint_says 'AccessDenied|not authorized|UnauthorizedOperation|Forbidden'; then
    fail "${identity:-whoever runs this} lacks a right, which stands above: have an administrator grant it, or run the same command" \
      'as a role that has it'
  elif complaint_says 'Could not connect to the endpoint URL|Invalid endpoint|Could not resolve'; then
    fail "AWS can't be reached in $region: is that the name of a Region (--region), and is the network there?"
  fi
  fail "AWS has refused a step of it, for the reason above; nothing has to be undone before the same command runs again"
}

on_a_terminal() {
  [ -t 2 ] && { : </dev/tty; } 2>/dev/null
}

# Asks on the terminal, also where this script itself comes from a pipe. The answer is in `answer`.
ask() {
  printf '%s\n> ' "$1" >/dev/tty
  IFS= read -r answer </dev/tty || fail 'no answer'
}

ask_hidden() {
  terminal=$(stty -g </dev/tty)
  stty -echo </dev/tty
  ask "$1"
  stty "$terminal" </dev/tty
  terminal=
  printf '\n' >/dev/tty
}

# shellcheck disable=SC2317,SC2329 # the trap calls it
clean_up() {
  rm -rf "$work"
  [ -z "$terminal" ] || stty "$terminal" </dev/tty
}

read_arguments() {
  verb=install stack=ghcr-to-ecr region='' version='' from='' rules_file='' token_secret='' webhook_secret='' architecture=''
  source='' destination='' bucket='' keep_secrets='' yes='' no_token='' create_repositories=''
  # None of the lists is ever empty: bash 3.2 takes an empty one for a variable that is not set.
  tags=(application=ghcr-to-ecr) given_parameters=("")
  case ${1-} in
    install | status | remove) verb=$1 && shift ;;
  esac
  while [ $# -gt 0 ]; do
    case $1 in
      --help | -h) say "$USAGE" && exit 0 ;;
      --yes | --keep-secrets | --no-token | --create-repositories)
        case $1 in
          --yes) yes=yes ;;
          --keep-secrets) keep_secrets=yes ;;
          --no-token) no_token=yes ;;
          --create-repositories) create_repositories=yes ;;
        esac
        shift
        continue
        ;;
      --stack | --region | --version | --from | --source | --destination | --rules | --token-secret | --webhook-secret | \
        --architecture | --bucket | --parameter | --tag) ;;
      *) misused "there is no argument $1; install.sh --help lists all of them" ;;
    esac
    [ -n "${2-}" ] || misused "$1 needs a value; install.sh --help says which"
    case $1 in
      --stack) stack=$2 ;;
      --region) region=$2 ;;
      --version) version=${2#v} ;;
      --from) from=$2 ;;
      --source) source=$2 ;;
      --destination) destination=$2 ;;
      --rules) rules_file=$2 ;;
      --token-secret) token_secret=$2 ;;
      --webhook-secret) webhook_secret=$2 ;;
      --architecture) architecture=$2 ;;
      --bucket) bucket=$2 ;;
      --parameter) given_parameters+=("$2") ;;
      --tag) tags+=("$2") ;;
    esac
    shift 2
  done
  check_arguments
}

expect_form() {
  [[ $2 =~ $3 ]] || misused "$1 is '$2'; expected $4"
}

check_arguments() {
  expect_form --stack "$stack" '^[A-Za-z][A-Za-z0-9-]{0,127}$' 'letters, digits and hyphens, a letter first'
  [ -z "$version" ] || expect_form --version "$version" '^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.-]*$' 'a version such as 1.2.3'
  [ -z "$architecture" ] || expect_form --architecture "$architecture" '^(arm64|x86_64)$' 'arm64 or x86_64'
  local tag
  for tag in "${tags[@]}"; do
    expect_form --tag "$tag" '^[A-Za-z0-9 _.:/+@-]+=[A-Za-z0-9 _.:/=+@-]*$' 'NAME=VALUE of letters, digits, spaces and _.:/=+@-'
    [ "${tag%%=*}" != application ] || [ "$tag" = application=ghcr-to-ecr ] ||
      misused "--tag $tag: this one is application=ghcr-to-ecr"
  done
  [ -z "$rules_file" ] || [ -z "$source$destination" ] || misused '--rules takes the place of --source and --destination'
  [ -z "$rules_file" ] || [ -r "$rules_file" ] || misused "--rules: there is no file $rules_file that can be read"
  [ -z "$source" ] || check_source
  [ -z "$destination" ] || check_destination
  [ -z "$token_secret" ] || [ -z "$no_token" ] || misused 'either --token-secret or --no-token'
  case $from in
    http://127.0.0.1[:/]* | http://localhost[:/]*) ;;
    http://*) misused "--from $from: only https is safe on a network" ;;
  esac
}

# Quotes and backslashes are in neither form, so both can stand in JSON as they are.
check_source() {
  source=$(printf '%s' "${source#ghcr.io/}" | tr '[:upper:]' '[:lower:]')
  expect_form --source "$source" '^[a-z0-9-]+/[][a-z0-9._/*?{},!-]+$' 'owner/name without a tag, such as acme/api or acme/*'
}

check_destination() {
  expect_form --destination "$destination" \
    '^([0-9]{12}\.dkr\.ecr\.[a-z0-9-]+\.amazonaws\.com(\.cn)?/)?[a-z0-9{][a-z0-9._/{}-]*(:[A-Za-z0-9._{}-]+)?$' \
    'an ECR repository such as prod/api or prod/{name}'
}

# Which account and Region this is about. Nothing is changed before that is on the screen.
find_account() {
  command -v aws >/dev/null || fail 'there is no AWS CLI: use AWS CloudShell, or install version 2 of it:' \
    https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html
  [ -n "$region" ] || region=${AWS_REGION:-${AWS_DEFAULT_REGION:-$(aws configure get region || true)}}
  [ -n "$region" ] || misused 'no Region is set: name one, such as --region eu-west-3'
  expect_form --region "$region" '^[a-z]+(-[a-z]+)+-[0-9]+$' 'a Region such as eu-west-3'
  export AWS_REGION=$region AWS_DEFAULT_REGION=$region AWS_PAGER='' AWS_CLI_AUTO_PROMPT=off
  local answer
  answer=$(must sts get-caller-identity --query '[Account,Arn]' --output text)
  account=${answer%%[[:space:]]*} identity=${answer##*[[:space:]]}
  partition=$(printf '%s' "$identity" | cut -d : -f 2)
  own_bucket=ghcr-to-ecr-$account-$region
  prefix=ghcr-to-ecr/$stack/
  say "Stack $stack, account $account, Region $region, as $identity"
}

# Reads what CloudFormation knows of the stack. `status` is empty where there is no stack, and where there is the shell of one
# that was never deployed.
find_stack() {
  status=''
  # A row for each: its kind, its name, its value. Only the rules may have several lines.
  if ! try cloudformation describe-stacks --stack-name "$stack" --output text --query "Stacks[0].[
      [['status', 'status', StackStatus]],
      Parameters[?ParameterKey != 'Rules'].['parameter', ParameterKey, ParameterValue],
      Outputs[].['output', OutputKey, OutputValue],
      Tags[].['tag', Key, Value]
    ][]" >"$work/stack"; then
    complaint_says 'does not exist' || explain
    return 0
  fi
  status=$(known status status)
  [ "$status" != REVIEW_IN_PROGRESS ] || status=''
  [ -z "$status" ] || [ -n "$(known parameter DestinationRepositories)" ] ||
    fail "the stack $stack is not one of ghcr-to-ecr; name another: --stack"
}

known() {
  awk -F '\t' -v "kind=$1" -v "name=$2" '$1 == kind && $2 == name { print $3 }' "$work/stack"
}

# This command for the same stack, to be typed.
again() {
  local words="install.sh $1"
  [ "$stack" = ghcr-to-ecr ] || words="$words --stack $stack"
  say "$words --region $region"
}

expect_stack_can_change() {
  case $status in
    '' | CREATE_COMPLETE | UPDATE_COMPLETE | UPDATE_ROLLBACK_COMPLETE | IMPORT_COMPLETE | IMPORT_ROLLBACK_COMPLETE) ;;
    ROLLBACK_COMPLETE | ROLLBACK_FAILED | CREATE_FAILED | DELETE_FAILED)
      fail "the stack is in $status, from which it can only be deleted. Run \`$(again remove) --keep-secrets\`, then this again" ;;
    UPDATE_ROLLBACK_FAILED)
      fail 'an upgrade failed, and so did the way back. Run' \
        "\`aws cloudformation continue-update-rollback --stack-name $stack --region $region\`, then this again" ;;
    *) fail "the stack is in $status: somebody else changes it. Wait until that is over, then run this again" ;;
  esac
}

fetch() {
  local secure=https
  case $from in
    http://*) secure=http ;;
    https://*) ;;
    *)
      cp "$from/$1" "$work/$1" || fail "the release has no file $1 in the folder $from"
      return
      ;;
  esac
  curl --fail --location --silent --show-error --proto "=$secure" --retry 3 --retry-delay 1 --connect-timeout 20 \
    --speed-limit 1000 --speed-time 30 --output "$work/$1" "$from/$1" ||
    fail "$from/$1 could not be downloaded: look whether there is such a release, and at the network (a proxy is HTTPS_PROXY)"
}

sum_of() {
  if command -v sha256sum >/dev/null; then
    sha256sum <"$1"
  else
    shasum -a 256 <"$1"
  fi | cut -d ' ' -f 1
}

expect_sum() {
  local expected found
  expected=$(awk -v "name=$1" '$2 == name || $2 == "*" name { print $1 }' "$work/SHA256SUMS")
  [[ $expected =~ ^[0-9a-f]{64}$ ]] || fail "SHA256SUMS of $from has no sum of $1, or not one: this is no whole release"
  found=$(sum_of "$work/$1")
  [ "$found" = "$expected" ] ||
    fail "$1 from $from is not the file of the release: its SHA-256 is $found, and SHA256SUMS says $expected. Nothing was deployed;" \
      'run this again, and if it stays so, tell the maintainers'
}

# GitHub's attestation says which workflow of which repository has built a file, and from what. To ask for it takes GitHub's own
# command, in a version that can ask so precisely.
expect_provenance() {
  if [ -z "$REPOSITORY" ] || ! gh attestation verify --help 2>/dev/null | grep -e --source-ref >/dev/null ||
    ! gh auth status >/dev/null 2>&1; then
    say "Who built it was not checked: that takes a recent version of GitHub's command gh, logged in"
    return
  fi
  local name
  for name in "$@"; do
    gh attestation verify "$work/$name" --repo "$REPOSITORY" --signer-workflow "$REPOSITORY/.github/workflows/release.yml" \
      --source-ref "refs/tags/v$version" --deny-self-hosted-runners >/dev/null 2>"$work/complaint" || {
      show_complaint
      fail "GitHub does not confirm that $name was built by $REPOSITORY from the tag v$version. Nothing was deployed"
    }
  done
  say "Built by $REPOSITORY from the tag v$version, as GitHub confirms"
}

get_release() {
  if [ -z "$from" ]; then
    version=${version:-$VERSION}
    [ -n "$REPOSITORY" ] || misused 'this script belongs to no release: name one with --from'
    from=https://github.com/$REPOSITORY/releases/download/v$version
  fi
  from=${from%/}
  case $from in
    http*) command -v curl >/dev/null || fail 'there is no curl: download the files of the release, and name their folder: --from' ;;
  esac
  fetch SHA256SUMS
  if [ -z "$version" ]; then
    version=$(sed -n "s/.*[ *]ghcr-to-ecr-lambda-\([0-9][0-9A-Za-z.-]*\)-$architecture\.zip\$/\1/p" "$work/SHA256SUMS")
    expect_form 'the version in SHA256SUMS' "$version" '^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.-]*$' "one zip for $architecture"
  fi
  archive=ghcr-to-ecr-lambda-$version-$architecture.zip
  local name
  for name in template.yaml "$archive"; do
    fetch "$name"
    expect_sum "$name"
  done
  say "Release $version from $from: the sums are right"
  expect_provenance template.yaml "$archive"
}

expect_parameters() {
  local parameter name
  for parameter in "${given_parameters[@]}"; do
    [ -n "$parameter" ] || continue
    name=${parameter%%=*}
    case $name in
      Rules | RulesSecretArn) misused "--parameter $name: the rules are --source and --destination, or --rules FILE" ;;
      Architecture | CodeBucket | CodePrefix) misused "--parameter $name: use --architecture or --bucket" ;;
      GhcrTokenSecretArn)
        [ -z "$ghcr_token$token_secret$no_token" ] ||
          misused "--parameter $name: GHCR_TOKEN or an option says something else about the token" ;;
      WebhookSecretArn) [ -z "$webhook_secret" ] || misused "--parameter $name: use --webhook-secret alone" ;;
      ManageRepositories) [ -z "$create_repositories" ] || misused "--parameter $name: use --create-repositories alone" ;;
    esac
    [ "$name" != "$parameter" ] || misused "--parameter $parameter: expected NAME=VALUE"
    awk '/^[^ #]/ { inside = /^Parameters:/ } inside && /^  [A-Za-z]/ { print $1 }' "$work/template.yaml" |
      grep --fixed-strings --line-regexp -e "$name:" >/dev/null ||
      misused "--parameter $name: the template of release $version has no such parameter"
    parameters+=("$parameter")
  done
}

has_parameter() {
  printf '%s\n' "${parameters[@]}" | grep "^$1=" >/dev/null
}

# The questions that the arguments leave open. An upgrade keeps what it has and asks none.
ask_what_is_open() {
  local lacking=''
  if [ -z "$status" ]; then
    if [ -n "$rules_file" ]; then
      has_parameter DestinationRepositories ||
        misused '--rules needs the repositories that the function may push to: --parameter DestinationRepositories=ARN,…'
    else
      [ -n "$source" ] || lacking="$lacking --source"
      [ -n "$destination" ] || lacking="$lacking --destination"
    fi
    [ -n "$token_secret$no_token$ghcr_token" ] || has_parameter GhcrTokenSecretArn ||
      lacking="$lacking GHCR_TOKEN (or --token-secret, or --no-token)"
  fi
  [ -z "$lacking" ] || on_a_terminal || misused "there is no terminal to ask on, and no argument says:$lacking"

  case $lacking in *--source*)
    ask 'Which packages at ghcr.io are copied? For example acme/api, or acme/* for all of acme'
    source=$answer
    check_source
    ;;
  esac
  case $lacking in *--destination*)
    ask "Into which ECR repository of $account in $region? For example prod/api, or prod/{name} for one of each package's name"
    destination=$answer
    check_destination
    ;;
  esac
  case $lacking in *GHCR_TOKEN*)
    ask_hidden "The classic GitHub token with read:packages that reads them
(nothing is shown; empty for public packages alone; or the name or ARN of a secret that holds it)"
    case $answer in
      '') no_token=yes ;;
      gh[a-z]_* | github_pat_*) ghcr_token=$answer ;;
      *) token_secret=$answer ;;
    esac
    ;;
  esac
  [ -z "$ghcr_token" ] || check_token
  [ -n "$source" ] && [ -n "$destination" ] || [ -z "$source$destination" ] || misused '--source and --destination belong together'
  [ -z "$create_repositories" ] || [ -n "$source$rules_file" ] ||
    misused '--create-repositories belongs to --source and --destination, or to --rules'
}

check_token() {
  [ -z "$token_secret$no_token" ] || misused 'GHCR_TOKEN is set, and an option says something else about the token: unset it'
  case $ghcr_token in
    github_pat_* | ghs_* | ghu_*)
      misused 'GHCR lets only classic personal access tokens pull (ghp_…): make one with the scope read:packages' ;;
    *[!A-Za-z0-9_]*) misused 'this is no GitHub token: it has other characters than letters, digits and _' ;;
  esac
}

secret_tags() {
  local tag
  printf 'Key="%s",Value="%s"\n' "$OWN_TAG" "$stack"
  for tag in "${tags[@]}"; do
    printf 'Key="%s",Value="%s"\n' "${tag%%=*}" "${tag#*=}"
  done
}

# Looks for the secret of this stack with that name, and brings it back if it waits for its deletion. The ARN is in `secret`,
# empty where there is none. What somebody else has made under that name is neither read nor overwritten.
find_secret() {
  secret=''
  if try secretsmanager describe-secret --secret-id "$stack/$1" --output text \
    --query "[ARN, DeletedDate, Tags[?Key=='$OWN_TAG'].Value | [0]]" >"$work/secret"; then
    [ "$(cut -f 3 "$work/secret")" = "$stack" ] ||
      fail "the secret $stack/$1 was not made by install.sh, which leaves it alone: $2, or choose another --stack"
    secret=$(cut -f 1 "$work/secret")
    [ "$(cut -f 2 "$work/secret")" = None ] ||
      must secretsmanager restore-secret --secret-id "$secret" >/dev/null
  else
    complaint_says ResourceNotFound || explain
  fi
}

# Stores `text` in the secret of this stack with that name, which `find_secret` has looked for. The text is in no argument, where
# the list of processes shows it.
store() {
  if [ -n "$secret" ]; then
    printf '%s' "$text" | must secretsmanager put-secret-value --secret-id "$secret" --secret-string file:///dev/stdin >/dev/null
    return
  fi
  local tag words=(--name "$stack/$1" --description "$2" --tags)
  while IFS= read -r tag; do
    words+=("$tag")
  done <<EOF
$(secret_tags)
EOF
  secret=$(printf '%s' "$text" |
    must secretsmanager create-secret "${words[@]}" --secret-string file:///dev/stdin --query ARN --output text)
}

arn_of_secret() {
  try secretsmanager describe-secret --secret-id "$1" --query ARN --output text ||
    { complaint_says ResourceNotFound && fail "there is no secret $1 in account $account and Region $region"; } || explain
}

# The ARN of the repositories that the destination stands for, whatever its placeholders are filled with.
repositories_of_destination() {
  local repository=${destination%%:*} in_region=$region of_account=$account
  case $repository in
    *.amazonaws.com*/*)
      of_account=${repository%%.*}
      in_region=$(printf '%s' "$repository" | cut -d . -f 4)
      repository=${repository#*/}
      ;;
  esac
  repository=$(printf '%s' "$repository" | sed 's/{[a-z0-9]*}/*/g')
  say "arn:$partition:ecr:$in_region:$of_account:repository/$repository"
}

set_rules() {
  if [ -n "$rules_file" ]; then
    text=$(cat "$rules_file")
  elif [ -n "$source" ]; then
    text="[{\"source\": \"$source\", \"destination\": \"$destination\"}]"
    [ -z "$create_repositories" ] || text="${text%\}]}, \"repository\": {\"create\": true}}]"
    local repositories
    repositories=$(repositories_of_destination)
    if has_parameter DestinationRepositories; then
      say "Rules: $text"
    else
      parameters+=("DestinationRepositories=$repositories")
      say "Rules: $text" "The function may push to $repositories"
    fi
  else
    return 0
  fi
  [ -z "$create_repositories" ] || parameters+=(ManageRepositories=true)
  local bytes
  bytes=$(printf '%s' "$text" | wc -c)
  [ "$bytes" -le "$RULES_IN_SECRET" ] || fail "the rules have $((bytes)) bytes, and a secret holds $RULES_IN_SECRET"
  if [ "$bytes" -le "$RULES_IN_PARAMETER" ]; then
    parameters+=("Rules=$text" RulesSecretArn=)
  else
    find_secret rules 'rename it'
    store rules 'Rules of ghcr-to-ecr: which packages are copied, and where to'
    parameters+=("Rules=secret:$stack/rules" "RulesSecretArn=$secret")
    say "The rules are in the secret $stack/rules, since a parameter is too short for them; the functions read it every five minutes"
  fi
}

set_secrets() {
  if [ -n "$ghcr_token" ]; then
    text=$ghcr_token
    find_secret ghcr-token "use it with --token-secret $stack/ghcr-token"
    store ghcr-token 'GitHub token with which ghcr-to-ecr reads packages'
    say "The GitHub token is in the secret $stack/ghcr-token"
  elif [ -n "$token_secret" ]; then
    secret=$(arn_of_secret "$token_secret")
  else
    secret=''
  fi
  [ -z "$secret$no_token" ] || parameters+=("GhcrTokenSecretArn=$secret")

  if [ -n "$webhook_secret" ]; then
    secret=$(arn_of_secret "$webhook_secret")
  elif [ -z "$status" ] && ! has_parameter WebhookSecretArn; then
    find_secret webhook "use it with --webhook-secret $stack/webhook"
    if [ -z "$secret" ]; then
      text=$(od -An -N 32 -t x1 /dev/urandom | tr -d ' \n')
      store webhook 'What GitHub signs the webhook of ghcr-to-ecr with'
    fi
  else
    return 0
  fi
  parameters+=("WebhookSecretArn=$secret")
}

# The bucket that --bucket names, or that the stack has, or one of our own.
choose_bucket() {
  [ -n "$bucket" ] || [ -z "$status" ] || bucket=$(known parameter CodeBucket)
  bucket=${bucket:-$own_bucket}
}

# The bucket's name can be guessed, so somebody else may have taken it: AWS is asked whose it is.
prepare_bucket() {
  ! try s3api head-bucket --bucket "$bucket" --expected-bucket-owner "$account" >/dev/null || return 0
  complaint_says '\(404\)' || {
    show_complaint
    fail "the S3 bucket $bucket can't be used: it belongs to another account or Region, or $identity lacks s3:ListBucket there." \
      'Name a bucket that can: --bucket'
  }
  [ "$bucket" = "$own_bucket" ] || fail "there is no S3 bucket $bucket; --bucket names one that there is"
  # S3 refuses the name of this one Region. (S3 API reference, "CreateBucket")
  if [ "$region" = us-east-1 ]; then
    must s3api create-bucket --bucket "$bucket" >/dev/null
  else
    must s3api create-bucket --bucket "$bucket" --create-bucket-configuration "LocationConstraint=$region" >/dev/null
  fi
  must s3api put-public-access-block --bucket "$bucket" --public-access-block-configuration \
    BlockPublicAcls=true,IgnorePublicAcls=true,BlockPublicPolicy=true,RestrictPublicBuckets=true
  must s3api put-bucket-tagging --bucket "$bucket" --tagging 'TagSet=[{Key=application,Value=ghcr-to-ecr}]'
  say "The S3 bucket $bucket was created for the functions' code"
}

# CloudFormation takes the tags that a deployment names for all of them, and removes the others.
keep_tags() {
  [ -n "$status" ] || return 0
  local kind name value new
  while IFS=$'\t' read -r kind name value; do
    [ "$kind" = tag ] || continue
    for new in "${tags[@]}"; do
      [ "${new%%=*}" != "$name" ] || continue 2
    done
    tags+=("$name=$value")
  done <"$work/stack"
}

deploy() {
  must s3api put-object --bucket "$bucket" --key "$prefix$archive" --body "$work/$archive" \
    --expected-bucket-owner "$account" >/dev/null
  say 'CloudFormation deploys; that takes some three minutes …'
  if ! try cloudformation deploy --stack-name "$stack" --template-file "$work/template.yaml" --s3-bucket "$bucket" \
    --s3-prefix "${prefix%/}" --capabilities CAPABILITY_IAM CAPABILITY_AUTO_EXPAND --no-fail-on-empty-changeset \
    --parameter-overrides "${parameters[@]}" --tags "${tags[@]}" >"$work/deployment"; then
    explain_stack
  fi
  if grep --quiet 'No changes to deploy' "$work/deployment"; then
    say "There was nothing to change: release $version is deployed."
  else
    say "Release $version is deployed."
  fi
}

# Ends with the oldest failure since the deployment or deletion began: CloudFormation undoes or skips everything after it.
explain_stack() {
  cp "$work/complaint" "$work/why"
  try cloudformation describe-stack-events --stack-name "$stack" --output text \
    --query 'StackEvents[].[ResourceStatus,LogicalResourceId,ResourceStatusReason]' >"$work/events" || : >"$work/events"
  awk -F '\t' -v "stack=$stack" '
    $2 == stack && $1 ~ /^(CREATE|UPDATE|DELETE)_IN_PROGRESS$/ { exit }
    $2 != stack && $1 ~ /_FAILED$/ { first = $2 ": " $3 }
    END { if (first) print first }' "$work/events" >"$work/complaint"
  # No resource failed: CloudFormation has refused the change as such.
  [ -s "$work/complaint" ] || { cp "$work/why" "$work/complaint" && explain; }
  cat "$work/complaint" >&2
  find_stack
  fail "CloudFormation could not do it, for the reason above. The stack is now in $status; once the reason is removed, $(what_now)"
}

what_now() {
  case $verb-$status in
    install-ROLLBACK_COMPLETE | install-ROLLBACK_FAILED | install-CREATE_FAILED)
      say "run \`$(again remove) --keep-secrets\`, then this again" ;;
    *) say 'run this again' ;;
  esac
}

# Prints the answer of a function to {"check": true}, a line for each test; ends with 1 if one failed or there is none.
# Control characters of a terminal are escaped in JSON, and stay so.
show_checks() {
  tr -d '\000-\037\177' <"$work/answer.json" | LC_ALL=C awk '
    function show() {
      if (!("check" in line)) return
      printf "  %-8s %s: %s\n", line["status"], line["check"], line["detail"]
      if (line["remedy"] != "") printf "           -> %s\n", line["remedy"]
      shown++
      failed += line["status"] != "ok" && line["status"] != "warning"
      split("", line)
    }
    {
      text = $0
      while (match(text, /"([^"\\]|\\.)*"/)) {
        word = substr(text, RSTART + 1, RLENGTH - 2)
        text = substr(text, RSTART + RLENGTH)
        gsub(/\\n/, " ", word)
        gsub(/\\"/, "\"", word)
        gsub(/\\\\/, "\\", word)
        if (text ~ /^ *:/) { name = word; if (name == "check") show() }
        else { line[name] = word; name = "" }
      }
    }
    END {
      show()
      if (!shown) print "  failed   " (line["errorMessage"] ? line["errorMessage"] : "no checklist came; its log says why")
      exit (!shown || failed)
    }'
}

# The AWS CLI would give up after a minute, and ask again.
check() {
  local function name found=0
  printf '{"check": true}' >"$work/check.json"
  for function in FunctionName WebhookFunctionName; do
    name=$(known output "$function")
    say '' "Test of $name:"
    AWS_MAX_ATTEMPTS=1 try lambda invoke --cli-read-timeout 0 --function-name "$name" --payload "fileb://$work/check.json" \
      "$work/answer.json" >/dev/null || { cat "$work/complaint" >&2 && found=1 && continue; }
    show_checks || found=1
  done
  return "$found"
}

# Ends with 3 where the test of the deployment has found something. An argument also shows what comes after an installation.
show_result() {
  local found=0
  check || found=3
  url=$(known output WebhookUrl)
  say '' "Webhook URL: $url"
  [ -z "$1" ] || show_what_to_do
  [ "$found" = 0 ] || say '' "Something above has failed: put it right, and test again with \`$(again status)\`"
  return "$found"
}

show_what_to_do() {
  local function webhook_secret owner=${source%%/*}
  owner=${owner:-OWNER}
  function=$(known output FunctionName)
  webhook_secret=$(known parameter WebhookSecretArn)
  [ -n "$webhook_secret" ] ||
    say '' "Every webhook is refused, as the stack has no secret for it: $(again install) --webhook-secret ID"
  cat <<EOF

What to do next:

1. Let GitHub tell of every push, as an owner of $owner, where the AWS CLI and gh are logged in (gh needs
   \`gh auth refresh --scopes admin:org_hook\` once; for one repository write repos/$owner/REPOSITORY/hooks):

   aws secretsmanager get-secret-value --region $region --secret-id ${webhook_secret:-ID} \\
     --query SecretString --output text | tr -d '\\n' |
     gh api orgs/$owner/hooks -f name=web -F active=true -f 'events[]=package' -f 'config[content_type]=json' \\
       -f 'config[url]=$url' -F 'config[secret]=@-'

   Or under Settings → Webhooks: this URL, content type application/json, the one event Packages, and the secret, which
   the first two lines print.

2. Look at what a scheduled run would copy besides, without copying it:

   AWS_MAX_ATTEMPTS=1 aws lambda invoke --region $region --cli-read-timeout 0 --function-name $function \\
     --cli-binary-format raw-in-base64-out --payload '{"reconcile": true, "dry_run": true}' reply.json && cat reply.json

3. If that is what you want, let it run every hour. If it is too much, write rules that keep it to fewer tags, such as
   "tags": {"newest": 10}, and deploy them first: --rules FILE.

   $(again install) --parameter ScheduleState=ENABLED
EOF
}

install() {
  local new
  find_stack
  expect_stack_can_change
  [ -n "$status" ] || new=yes
  if [ -z "$architecture" ]; then
    architecture=arm64
    [ -n "${new-}" ] || architecture=$(known parameter Architecture)
  fi
  get_release
  parameters=("CodePrefix=$prefix" "Architecture=$architecture")
  expect_parameters
  ask_what_is_open
  choose_bucket
  parameters+=("CodeBucket=$bucket")
  set_rules
  prepare_bucket
  set_secrets
  keep_tags
  deploy
  find_stack
  show_result "${new-}"
}

show_status() {
  find_stack
  [ -n "$status" ] || fail "there is no stack $stack in account $account and Region $region"
  say "CloudFormation: $status"
  expect_stack_can_change
  show_result yes
}

confirm_removal() {
  local secrets='The secrets that install.sh has made stay.'
  [ -n "$keep_secrets" ] || secrets='So do the secrets that install.sh has made, which can be restored for 30 days.'
  if [ -n "$status" ]; then
    say "This deletes the stack $stack: both functions, their roles, logs and alarms, the schedule, the webhook URL, and the job" \
      "queue with every job that waits in it. What stays: images and repositories in ECR, GitHub's webhook, and the dead-letter" \
      'queue and the failure queue with their messages.'
  else
    say "There is no stack $stack. What is left of it is deleted:"
  fi
  say "Its code in the S3 bucket $bucket goes too. $secrets"
  [ -z "$yes" ] || return 0
  on_a_terminal || misused 'there is no terminal to ask on: --yes says that this is meant'
  ask 'Delete it? (yes or no)'
  [ "$answer" = yes ] || fail 'nothing was deleted'
}

remove_stack() {
  local name url
  for name in DeadLetterQueueUrl FailureQueueUrl; do
    url=$(known output "$name")
    [ -z "$url" ] || kept="$kept   aws sqs delete-queue --region $region --queue-url $url
"
  done
  must cloudformation delete-stack --stack-name "$stack"
  try cloudformation wait stack-delete-complete --stack-name "$stack" || explain_stack
  say "The stack $stack is deleted"
}

remove_code() {
  try s3api head-bucket --bucket "$bucket" --expected-bucket-owner "$account" >/dev/null || return 0
  must s3 rm "s3://$bucket/$prefix" --recursive --quiet
  [ "$bucket" = "$own_bucket" ] || return 0
  if try s3api delete-bucket --bucket "$bucket" --expected-bucket-owner "$account"; then
    say "The S3 bucket $bucket is deleted"
  elif complaint_says BucketNotEmpty; then
    say "The S3 bucket $bucket stays: other code is in it"
  else
    explain
  fi
}

remove_secrets() {
  local name until
  for name in $SECRETS; do
    if try secretsmanager describe-secret --secret-id "$stack/$name" --output text \
      --query "[DeletedDate, Tags[?Key=='$OWN_TAG'].Value | [0]]" >"$work/secret"; then
      # Already on its way, or somebody else's.
      [ "$(cat "$work/secret")" = "None	$stack" ] || continue
      until=$(must secretsmanager delete-secret --secret-id "$stack/$name" --recovery-window-in-days 30 \
        --query DeletionDate --output text)
      say "The secret $stack/$name is deleted for good at $until; until then this brings it back:" \
        "   aws secretsmanager restore-secret --region $region --secret-id $stack/$name"
    else
      complaint_says ResourceNotFound || explain
    fi
  done
}

remove() {
  kept=''
  find_stack
  case $status in
    *_IN_PROGRESS) fail "the stack is in $status: somebody else changes it. Wait until that is over, then run this again" ;;
  esac
  choose_bucket
  confirm_removal
  [ -z "$status" ] || remove_stack
  remove_code
  [ -n "$keep_secrets" ] || remove_secrets
  [ -z "$kept" ] || say "Once nothing in them is needed any more, delete the queues that stay:

$kept"
}

main() {
  # Neither the token nor what is stored is ever in the environment of another command.
  unset -v ghcr_token answer text
  ghcr_token=${GHCR_TOKEN-} terminal=''
  unset -v GHCR_TOKEN
  read_arguments "$@"
  umask 077
  work=$(mktemp -d "${TMPDIR:-/tmp}/ghcr-to-ecr.XXXXXX")
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  find_account
  case $verb in
    install) install ;;
    status) show_status ;;
    remove) remove ;;
  esac
}

# A download that broke off ends before this line is whole, and does nothing.
{
  main "$@"
  exit
}
