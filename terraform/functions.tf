locals {
  # Both functions have these. What has no value is left out, so that the function takes its own default.
  environment = merge(
    {
      RULES           = local.has_rules_secret ? "secret:${local.rules_secret_arn}" : local.rules_json
      JOB_QUEUE_URL   = aws_sqs_queue.jobs.url
      SOURCE_REGISTRY = var.source_registry
    },
    { for name, value in {
      DESTINATION_REGISTRY = var.destination_registry
      HTTPS_PROXY          = var.https_proxy
      HTTP_PROXY           = var.https_proxy
      # Lambda's own runtime API is on the function's machine.
      NO_PROXY = var.https_proxy == "" ? "" : join(",", ["127.0.0.1", "localhost", var.no_proxy])
    } : name => value if value != "" },
  )

  # One of them alone is refused by Lambda; it must not be taken for none.
  has_vpc = length(concat(var.subnet_ids, var.security_group_ids)) > 0

  code = {
    filename          = var.zip_path == "" ? null : var.zip_path
    source_code_hash  = var.zip_path == "" ? null : filebase64sha256(var.zip_path)
    s3_bucket         = var.s3_bucket == "" ? null : var.s3_bucket
    s3_key            = var.s3_key == "" ? null : var.s3_key
    s3_object_version = var.s3_object_version == "" ? null : var.s3_object_version
  }
}

# Public, so it may do little: verify a signature, decide by the rules, and hand jobs over.
resource "aws_lambda_function" "webhook" {
  #checkov:skip=CKV_AWS_115:The API's rate limit or the event source's maximum_concurrency bounds it
  #checkov:skip=CKV_AWS_116:Invoked synchronously, or with a destination on failure, which says more
  #checkov:skip=CKV_AWS_173:The variables hold names, no secrets
  #checkov:skip=CKV_AWS_272:The zip is built by whoever deploys it, or has a provenance that is verified before
  function_name     = "${var.name}-webhook"
  description       = "Takes GitHub's webhooks and hands their jobs over"
  role              = aws_iam_role.webhook.arn
  filename          = local.code.filename
  source_code_hash  = local.code.source_code_hash
  s3_bucket         = local.code.s3_bucket
  s3_key            = local.code.s3_key
  s3_object_version = local.code.s3_object_version
  handler           = "bootstrap"
  runtime           = "provided.al2023"
  architectures     = [var.architecture]
  memory_size       = 256
  # GitHub waits ten seconds for a reply, and API Gateway thirty; this one goes on to say what went wrong.
  timeout = 25

  environment {
    variables = merge(
      local.environment,
      { for name, value in {
        WEBHOOK_SECRET_ID = var.webhook_secret_arn
      } : name => value if value != "" },
    )
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = var.log_level
    system_log_level      = "INFO"
    log_group             = aws_cloudwatch_log_group.webhook.name
  }

  tracing_config {
    mode = var.xray_tracing ? "Active" : "PassThrough"
  }

  dynamic "vpc_config" {
    for_each = local.has_vpc ? [1] : []

    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }

  # Lambda looks at the role's rights when it creates the function.
  # And with the first invocation the function reads its rules.
  depends_on = [aws_iam_role_policy.webhook, aws_secretsmanager_secret_version.rules]

  lifecycle {
    precondition {
      condition     = local.has_rules_secret || length(local.rules_json) <= 2000
      error_message = "The rules are longer than 2,000 characters as JSON, and Lambda allows 4 KB for all environment variables: set rules_in_secret = true."
    }
  }
}

# Not public, so it may hold the rights. The same binary.
resource "aws_lambda_function" "copy" {
  #checkov:skip=CKV_AWS_115:The API's rate limit or the event source's maximum_concurrency bounds it
  #checkov:skip=CKV_AWS_116:Invoked synchronously, or with a destination on failure, which says more
  #checkov:skip=CKV_AWS_173:The variables hold names, no secrets
  #checkov:skip=CKV_AWS_272:The zip is built by whoever deploys it, or has a provenance that is verified before
  function_name     = "${var.name}-copy"
  description       = "Copies container images from GHCR into Amazon ECR"
  role              = aws_iam_role.copy.arn
  filename          = local.code.filename
  source_code_hash  = local.code.source_code_hash
  s3_bucket         = local.code.s3_bucket
  s3_key            = local.code.s3_key
  s3_object_version = local.code.s3_object_version
  handler           = "bootstrap"
  runtime           = "provided.al2023"
  architectures     = [var.architecture]
  memory_size       = var.memory_size
  # Lambda's maximum. The function sees the deadline coming, keeps what it has copied, and continues from there.
  timeout = 900

  environment {
    variables = merge(
      local.environment,
      {
        DEAD_LETTER_QUEUE_URL = aws_sqs_queue.dead_letters.url
        GITHUB_API_URL        = var.github_api_url
        EVENT_SOURCES         = join(",", var.event_sources)
        BLOB_CONCURRENCY      = tostring(var.blob_concurrency)
      },
      { for name, value in {
        GHCR_TOKEN_SECRET_ID = var.ghcr_token_secret_arn
        EVENT_BUS            = var.report_bus
        TRUSTED_ROOT         = var.trusted_root_secret_arn == "" ? "" : "secret:${var.trusted_root_secret_arn}"
      } : name => value if value != "" },
    )
  }

  logging_config {
    log_format            = "JSON"
    application_log_level = var.log_level
    system_log_level      = "INFO"
    log_group             = aws_cloudwatch_log_group.copy.name
  }

  tracing_config {
    mode = var.xray_tracing ? "Active" : "PassThrough"
  }

  dynamic "vpc_config" {
    for_each = local.has_vpc ? [1] : []

    content {
      subnet_ids         = var.subnet_ids
      security_group_ids = var.security_group_ids
    }
  }

  depends_on = [aws_iam_role_policy.copy, aws_secretsmanager_secret_version.rules]
}

# When the deadline cuts a copy short, the function sends the rest of it to the queue that invokes it. Lambda's loop detection takes
# that for a loop and drops the job after about sixteen rounds. The function itself sees to the end of it: it continues only a copy
# that has made progress.
resource "aws_lambda_function_recursion_config" "copy" {
  function_name  = aws_lambda_function.copy.function_name
  recursive_loop = "Allow"
}

# A scheduled or asynchronous invocation that fails or meets its deadline is taken up twice more, from where it stopped. An event
# older than an hour says nothing that a later one does not.
resource "aws_lambda_function_event_invoke_config" "copy" {
  function_name                = aws_lambda_function.copy.function_name
  maximum_retry_attempts       = 2
  maximum_event_age_in_seconds = 3600

  destination_config {
    on_failure {
      destination = aws_sqs_queue.failures.arn
    }
  }
}

resource "aws_lambda_event_source_mapping" "jobs" {
  event_source_arn = aws_sqs_queue.jobs.arn
  function_name    = aws_lambda_function.copy.function_name
  # An invocation is one copy, with all of the time and bandwidth that it can have.
  batch_size              = 1
  function_response_types = ["ReportBatchItemFailures"]

  scaling_config {
    maximum_concurrency = var.maximum_concurrency
  }
}

# A comparison reads manifests, which ECR takes for pulls: an hourly one would keep every image from ever being expired, or archived,
# by the time of its last pull. It holds for this account and Region alone.
resource "aws_ecr_pull_time_update_exclusion" "copy" {
  count = var.exclude_pull_times ? 1 : 0

  principal_arn = aws_iam_role.copy.arn
}
