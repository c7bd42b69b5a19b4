# Plans of the module without an AWS account: `terraform init -backend=false`, then `terraform test`.

mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = {
      account_id = "123456789012"
    }
  }

  mock_data "aws_partition" {
    defaults = {
      partition  = "aws"
      dns_suffix = "amazonaws.com"
    }
  }

  mock_data "aws_region" {
    defaults = {
      region = "eu-west-3"
    }
  }
}

variables {
  s3_bucket                = "artifacts"
  s3_key                   = "ghcr-to-ecr.zip"
  rules                    = [{ source = "acme/*", destinations = [{ to = "prod/{name}" }] }]
  destination_repositories = ["arn:aws:ecr:eu-west-3:123456789012:repository/prod/*"]
}

run "minimal" {
  command = plan

  assert {
    condition     = aws_scheduler_schedule.runs.state == "DISABLED"
    error_message = "Nothing is copied until somebody says so."
  }

  assert {
    condition     = aws_lambda_function.copy.timeout == 900 && aws_sqs_queue.jobs.visibility_timeout_seconds == 1800
    error_message = "A message that Lambda holds back must not run twice."
  }

  assert {
    condition     = length(aws_ecr_pull_time_update_exclusion.copy) == 1
    error_message = "What the function reads must not count as a pull."
  }

  assert {
    condition     = length(aws_cloudwatch_metric_alarm.of_metric) + length(aws_cloudwatch_metric_alarm.of_expression) == 14
    error_message = "Without a schedule there is no alarm for it, and all others are there."
  }

  assert {
    condition     = length(aws_lambda_function.copy.vpc_config) == 0 && length(aws_cloudwatch_event_rule.github) == 0
    error_message = "What is optional is left out."
  }
}

run "outputs" {
  command = plan

  variables {
    name = "mirror"
  }

  assert {
    condition     = output.function_name == "mirror-copy" && output.webhook_function_name == "mirror-webhook"
    error_message = "The functions have the module's name."
  }

  assert {
    condition     = output.log_group_name == "/aws/lambda/mirror-copy" && output.webhook_log_group_name == "/aws/lambda/mirror-webhook"
    error_message = "The functions' log groups have the module's name."
  }
}

run "zip_on_this_machine" {
  command = plan

  variables {
    s3_bucket = ""
    s3_key    = ""
    # Stands for a zip: any file has a hash.
    zip_path = "versions.tf"
  }

  assert {
    condition     = aws_lambda_function.copy.source_code_hash == filebase64sha256("versions.tf")
    error_message = "A new zip has to be noticed."
  }
}

run "zip_in_two_places" {
  command = plan

  variables {
    zip_path = "versions.tf"
  }

  expect_failures = [var.zip_path]
}

run "zip_nowhere" {
  command = plan

  variables {
    s3_bucket = ""
    s3_key    = ""
  }

  expect_failures = [var.zip_path]
}

run "bucket_without_key" {
  command = plan

  variables {
    s3_key = ""
  }

  expect_failures = [var.s3_bucket]
}

run "rules_as_the_function_reads_them" {
  command = plan

  variables {
    rules = [{
      source       = "acme/*"
      destinations = [{ to = "prod/{name}" }, { to = "lambda/{name}", platform = "linux/arm64" }]
      tags         = { exclude = ["pr-*"], newest = 10 }
      repository   = { create = true, encryption = {} }
    }]
  }

  assert {
    condition = jsondecode(aws_lambda_function.copy.environment[0].variables["RULES"]) == jsondecode(<<-EOT
      [{"source": "acme/*", "destination": [{"to": "prod/{name}"}, {"to": "lambda/{name}", "platform": "linux/arm64"}],
        "tags": {"exclude": ["pr-*"], "newest": 10}, "repository": {"create": true, "encryption": "AES256"}}]
    EOT
    )
    error_message = "The function gets the fields that are given, and no others."
  }
}

run "rules_in_a_secret" {
  command = plan

  variables {
    rules_in_secret = true
  }

  assert {
    condition     = jsondecode(aws_secretsmanager_secret_version.rules[0].secret_string)[0].source == "acme/*"
    error_message = "The secret has the rules."
  }
}

run "rules_of_the_callers_secret" {
  command = plan

  variables {
    rules            = []
    rules_secret_arn = "arn:aws:secretsmanager:eu-west-3:123456789012:secret:ghcr-to-ecr/rules-AbCdEf"
  }

  assert {
    condition     = aws_lambda_function.webhook.environment[0].variables["RULES"] == "secret:${var.rules_secret_arn}"
    error_message = "Both functions read the secret."
  }
}

run "rules_that_are_missing" {
  command = plan

  variables {
    rules = []
  }

  expect_failures = [var.rules]
}

run "rule_without_destination" {
  command = plan

  variables {
    rules = [{ source = "acme/*", destinations = [] }]
  }

  expect_failures = [var.rules]
}

run "rule_that_requires_nothing" {
  command = plan

  variables {
    rules = [{ source = "acme/*", destinations = [{ to = "prod/{name}" }], require = [] }]
  }

  expect_failures = [var.rules]
}

run "rules_too_long_for_the_environment" {
  command = plan

  variables {
    rules = [for number in range(40) : { source = "acme/service-${number}", destinations = [{ to = "prod/{name}" }] }]
  }

  expect_failures = [aws_lambda_function.webhook]
}

run "governed_account" {
  command = plan

  variables {
    permissions_boundary_arn = "arn:aws:iam::123456789012:policy/boundary"
    role_path                = "/platform/mirror/"
    subnet_ids               = ["subnet-1", "subnet-2"]
    security_group_ids       = ["sg-1"]
    https_proxy              = "http://proxy.example.com:3128"
    no_proxy                 = "eu-west-3.amazonaws.com"
    queue_key_arn            = "arn:aws:kms:eu-west-3:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
    log_key_arn              = "arn:aws:kms:eu-west-3:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
  }

  assert {
    condition = alltrue([
      for role in [aws_iam_role.webhook, aws_iam_role.copy, aws_iam_role.schedule] :
      role.permissions_boundary == var.permissions_boundary_arn && role.path == var.role_path
    ])
    error_message = "Every role has the boundary and the path."
  }

  assert {
    condition     = length(aws_lambda_function.webhook.vpc_config[0].subnet_ids) == 2
    error_message = "The functions are attached to the subnets."
  }

  assert {
    condition     = aws_lambda_function.copy.environment[0].variables["NO_PROXY"] == "127.0.0.1,localhost,eu-west-3.amazonaws.com"
    error_message = "Lambda itself is reached without the proxy."
  }

  assert {
    condition = alltrue([
      for queue in [aws_sqs_queue.jobs, aws_sqs_queue.dead_letters, aws_sqs_queue.failures] : queue.kms_master_key_id == var.queue_key_arn
    ])
    error_message = "The queues have the key."
  }
}

run "boundary_that_is_no_policy" {
  command = plan

  variables {
    permissions_boundary_arn = "boundary"
  }

  expect_failures = [var.permissions_boundary_arn]
}
