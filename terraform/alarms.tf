# Each alarm says in its description what to do, goes off once for each thing that happened, and clears by itself when nothing more
# happens. template.yaml says why each is as it is; its parameters, which the descriptions name, are variables of the same words here.

locals {
  alarm_actions = var.alarm_topic_arn == "" ? [] : [var.alarm_topic_arn]

  # One metric, which reaches its threshold within five minutes.
  metric_alarms = {
    job-age = {
      description = "A job has waited for half an hour. Raise MaximumConcurrency if many wait, else see in the log of the copy function what fails again and again."
      namespace   = "AWS/SQS"
      metric_name = "ApproximateAgeOfOldestMessage"
      dimensions  = { QueueName = aws_sqs_queue.jobs.name }
      statistic   = "Maximum"
      threshold   = 1800
    }
    webhook-refusal = {
      description = "GitHub was answered 5xx, and repeats nothing. See the log of the webhook function; the next scheduled run finds the images."
      namespace   = "AWS/ApiGateway"
      metric_name = "5xx"
      dimensions  = { ApiId = aws_apigatewayv2_api.webhook.id }
      statistic   = "Sum"
      threshold   = 1
    }
    webhook-throttling = {
      description = "GitHub was answered 429, and repeats nothing. Raise WebhookRateLimit; the next scheduled run finds the images."
      namespace   = var.name
      metric_name = "WebhookThrottling"
      dimensions  = {}
      statistic   = "Sum"
      threshold   = 1
    }
    webhook-errors = {
      description = "The webhook function failed or was killed. See its log; the next scheduled run finds the images."
      namespace   = "AWS/Lambda"
      metric_name = "Errors"
      dimensions  = { FunctionName = aws_lambda_function.webhook.function_name }
      statistic   = "Sum"
      threshold   = 1
    }
    webhook-throttles = {
      description = "The account has too little concurrency for the webhook function. Lower MaximumConcurrency, or ask AWS for more concurrent executions (Service Quotas, AWS Lambda)."
      namespace   = "AWS/Lambda"
      metric_name = "Throttles"
      dimensions  = { FunctionName = aws_lambda_function.webhook.function_name }
      statistic   = "Sum"
      threshold   = 1
    }
    copy-errors = {
      description = "The copy function failed or was killed, in a scheduled or direct invocation. The last error in its log says what to do; Lambda repeats a scheduled one twice."
      namespace   = "AWS/Lambda"
      metric_name = "Errors"
      dimensions  = { FunctionName = aws_lambda_function.copy.function_name }
      statistic   = "Sum"
      threshold   = 1
    }
    copy-throttles = {
      description = "The account has less concurrency left than MaximumConcurrency. Lower it, or ask AWS for more concurrent executions (Service Quotas, AWS Lambda)."
      namespace   = "AWS/Lambda"
      metric_name = "Throttles"
      dimensions  = { FunctionName = aws_lambda_function.copy.function_name }
      statistic   = "Sum"
      threshold   = 1
    }
    # In milliseconds, half a minute short of the timeout: the function stops by itself two seconds before it.
    copy-duration = {
      description = "A copy or a scheduled run met the fifteen minutes that Lambda gives. It is continued from there. If it happens again and again, raise MemorySize, or narrow the rules."
      namespace   = "AWS/Lambda"
      metric_name = "Duration"
      dimensions  = { FunctionName = aws_lambda_function.copy.function_name }
      statistic   = "Maximum"
      threshold   = 870000
    }
  }

  # An expression over metrics. A metric of this function exists only while something is reported: FILL puts a value in place of data
  # that are missing.
  expression_alarms = {
    dead-letters = {
      description = "A job could not be done. Read the attribute error of the newest message in the dead-letter queue, remove the cause, and send the messages back to the job queue: the README says how. It clears while the message lies there."
      # SQS counts as sent what the function gives up, but not what it moves here itself: that shows only in how many messages wait.
      expression = "MAX([FILL(sent, 0), DIFF(FILL(waiting, 0))])"
      metrics = {
        sent = {
          namespace   = "AWS/SQS"
          metric_name = "NumberOfMessagesSent"
          stat        = "Sum"
          period      = 300
          dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
        }
        waiting = {
          namespace   = "AWS/SQS"
          metric_name = "ApproximateNumberOfMessagesVisible"
          stat        = "Maximum"
          period      = 300
          dimensions  = { QueueName = aws_sqs_queue.dead_letters.name }
        }
      }
      evaluation_periods  = 3
      datapoints_to_alarm = 1
      threshold           = 1
      comparison_operator = "GreaterThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    failures = {
      description = "A scheduled or asynchronous invocation failed for good. Read the newest message in the failure queue, which has the event and the error; the next run finds what a run or a push would have, and a direct event has to be sent again."
      expression  = "MAX([FILL(sent, 0), DIFF(FILL(waiting, 0))])"
      metrics = {
        sent = {
          namespace   = "AWS/SQS"
          metric_name = "NumberOfMessagesSent"
          stat        = "Sum"
          period      = 300
          dimensions  = { QueueName = aws_sqs_queue.failures.name }
        }
        waiting = {
          namespace   = "AWS/SQS"
          metric_name = "ApproximateNumberOfMessagesVisible"
          stat        = "Maximum"
          period      = 300
          dimensions  = { QueueName = aws_sqs_queue.failures.name }
        }
      }
      evaluation_periods  = 3
      datapoints_to_alarm = 1
      threshold           = 1
      comparison_operator = "GreaterThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    # What a scheduled run finds that fails for good is not among the failures: each run would find it again. The dashboard shows it.
    permanent-failures = {
      description = "An image could not be copied, and will not be until somebody does something. The error in the log of the copy function says what."
      expression  = "SUM([FILL(invalid, 0), FILL(denied, 0), FILL(notfound, 0), FILL(immutable, 0), FILL(internal, 0)])"
      metrics = {
        for kind in ["Invalid", "Denied", "NotFound", "Immutable", "Internal"] : lower(kind) => {
          namespace = "ghcr-to-ecr", metric_name = "Failures", stat = "Sum", period = 300, dimensions = { Kind = kind }
        }
      }
      evaluation_periods  = 1
      datapoints_to_alarm = null
      threshold           = 1
      comparison_operator = "GreaterThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    passing-failures = {
      description = "Ten copies in a quarter of an hour failed for what may pass, and are tried again. Look whether GitHub, ECR or the network is down; if none is, see the errors in the log of the copy function."
      expression  = "FILL(transient, 0)"
      metrics = {
        transient = {
          namespace = "ghcr-to-ecr", metric_name = "Failures", stat = "Sum", period = 900, dimensions = { Kind = "Transient" }
        }
      }
      evaluation_periods  = 1
      datapoints_to_alarm = null
      threshold           = 10
      comparison_operator = "GreaterThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    registry-throttling = {
      description = "A registry answered 429 a hundred times in a quarter of an hour. Nothing is lost. Lower MaximumConcurrency, or ask AWS for more than ten PutImage a second (Service Quotas, Amazon ECR)."
      expression  = "FILL(throttled, 0)"
      metrics = {
        throttled = { namespace = "ghcr-to-ecr", metric_name = "Throttled", stat = "Sum", period = 900, dimensions = {} }
      }
      evaluation_periods  = 1
      datapoints_to_alarm = null
      threshold           = 100
      comparison_operator = "GreaterThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    # It is reported where a token is used, which may be seldom. A token that does not expire is not reported at all.
    token-expiry = {
      description = "A GitHub token expires in two weeks or less. Make a new classic token with the scope read:packages, authorise it for the organisation, and store it in the secret. It clears a day later."
      expression  = "FILL(days, 365)"
      metrics = {
        days = { namespace = "ghcr-to-ecr", metric_name = "TokenDaysLeft", stat = "Minimum", period = 86400, dimensions = {} }
      }
      evaluation_periods  = 1
      datapoints_to_alarm = null
      threshold           = 14
      comparison_operator = "LessThanOrEqualToThreshold"
      treat_missing_data  = "notBreaching"
    }
    schedule = {
      description = "No scheduled run got to its end in RunAlarmHours, so nobody knows what webhooks have missed. See the log of the copy function. In the first hours of a schedule it is on until the first run has ended."
      expression  = "FILL(completed, 0)"
      metrics = {
        completed = { namespace = "ghcr-to-ecr", metric_name = "CompletedRuns", stat = "Sum", period = 3600, dimensions = {} }
      }
      evaluation_periods  = var.run_alarm_hours
      datapoints_to_alarm = null
      threshold           = 1
      comparison_operator = "LessThanThreshold"
      treat_missing_data  = "breaching"
    }
  }

  expects_runs = var.schedule_state == "ENABLED" && var.run_alarm_hours != 0
}

resource "aws_cloudwatch_metric_alarm" "of_metric" {
  for_each = local.metric_alarms

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  namespace           = each.value.namespace
  metric_name         = each.value.metric_name
  dimensions          = each.value.dimensions
  statistic           = each.value.statistic
  period              = 300
  evaluation_periods  = 1
  threshold           = each.value.threshold
  comparison_operator = "GreaterThanOrEqualToThreshold"
  treat_missing_data  = "notBreaching"
  alarm_actions       = local.alarm_actions
}

resource "aws_cloudwatch_metric_alarm" "of_expression" {
  for_each = { for key, alarm in local.expression_alarms : key => alarm if key != "schedule" || local.expects_runs }

  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.description
  evaluation_periods  = each.value.evaluation_periods
  datapoints_to_alarm = each.value.datapoints_to_alarm
  threshold           = each.value.threshold
  comparison_operator = each.value.comparison_operator
  treat_missing_data  = each.value.treat_missing_data
  alarm_actions       = local.alarm_actions

  metric_query {
    id          = "result"
    expression  = each.value.expression
    return_data = true
  }

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.metric_name
        dimensions  = metric_query.value.dimensions
        period      = metric_query.value.period
        stat        = metric_query.value.stat
      }
    }
  }
}

# An HTTP API counts its 429s among all 4xx, of which a public address has its share of 401s and 404s.
resource "aws_cloudwatch_log_metric_filter" "webhook_throttling" {
  name           = "${var.name}-webhook-throttling"
  log_group_name = aws_cloudwatch_log_group.access.name
  pattern        = "{ $.status = \"429\" }"

  metric_transformation {
    namespace = var.name
    name      = "WebhookThrottling"
    value     = "1"
    unit      = "Count"
  }
}
