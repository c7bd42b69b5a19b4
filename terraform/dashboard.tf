locals {
  alarms_in_order = concat(
    [for key in ["dead-letters", "failures"] : aws_cloudwatch_metric_alarm.of_expression[key].arn],
    [aws_cloudwatch_metric_alarm.of_metric["job-age"].arn],
    [for key in ["permanent-failures", "passing-failures", "registry-throttling", "token-expiry"] : aws_cloudwatch_metric_alarm.of_expression[key].arn],
    [
      for key in ["webhook-refusal", "webhook-throttling", "webhook-errors", "webhook-throttles", "copy-errors", "copy-throttles", "copy-duration"] :
      aws_cloudwatch_metric_alarm.of_metric[key].arn
    ],
    [for key in ["schedule"] : aws_cloudwatch_metric_alarm.of_expression[key].arn if local.expects_runs],
  )

  widgets = [
    {
      type = "alarm", width = 24, height = 4
      properties = {
        title = "Alarms", alarms = local.alarms_in_order
      }
    },
    {
      type = "metric", y = 4, width = 12, height = 6
      properties = {
        title = "Jobs", region = local.region, stat = "Maximum", period = 300
        metrics = [
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.jobs.name, { label = "waiting" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesNotVisible", "QueueName", aws_sqs_queue.jobs.name, { label = "in work" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.dead_letters.name, { label = "given up" }],
          ["AWS/SQS", "ApproximateNumberOfMessagesVisible", "QueueName", aws_sqs_queue.failures.name, { label = "failed events" }],
          ["AWS/SQS", "ApproximateAgeOfOldestMessage", "QueueName", aws_sqs_queue.jobs.name, { label = "oldest, s", yAxis = "right" }],
          ["ghcr-to-ecr", "Receives", { label = "receives of a job", yAxis = "right" }],
        ]
      }
    },
    {
      type = "metric", x = 12, y = 4, width = 12, height = 6
      properties = {
        title = "Arrived in the queues of what failed", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["AWS/SQS", "NumberOfMessagesSent", "QueueName", aws_sqs_queue.dead_letters.name, { label = "given up" }],
          ["AWS/SQS", "NumberOfMessagesSent", "QueueName", aws_sqs_queue.failures.name, { label = "failed events" }],
        ]
      }
    },
    {
      type = "metric", y = 10, width = 12, height = 6
      properties = {
        title = "Images", region = local.region, stat = "Sum", period = 300
        metrics = [
          for outcome in ["copied", "current", "planned", "queued", "ignored", "deferred", "failed"] :
          ["ghcr-to-ecr", "Images", "Outcome", outcome, { label = outcome }]
        ]
      }
    },
    {
      type = "metric", x = 12, y = 10, width = 12, height = 6
      properties = {
        title = "Failed images, those of scheduled runs included", region = local.region, stat = "Sum", period = 300
        metrics = [
          for kind in ["Invalid", "Denied", "NotFound", "Immutable", "Transient", "Internal"] :
          ["ghcr-to-ecr", "Images", "Outcome", "failed", "Kind", kind, { label = kind }]
        ]
      }
    },
    {
      type = "metric", y = 16, width = 12, height = 6
      properties = {
        title = "Failed images, without scheduled runs", region = local.region, stat = "Sum", period = 300
        metrics = [
          for kind in ["Invalid", "Denied", "NotFound", "Immutable", "Transient", "Internal"] :
          ["ghcr-to-ecr", "Failures", "Kind", kind, { label = kind }]
        ]
      }
    },
    {
      type = "metric", x = 12, y = 16, width = 12, height = 6
      properties = {
        title = "Time", region = local.region, stat = "p50", period = 300
        metrics = [
          ["ghcr-to-ecr", "Seconds", { label = "copy, half of them, s" }],
          ["ghcr-to-ecr", "Seconds", { label = "copy, 99 of 100, s", stat = "p99" }],
          ["ghcr-to-ecr", "SecondsSincePush", { label = "from push to ECR, half of them, s", yAxis = "right" }],
          ["ghcr-to-ecr", "SecondsSincePush", { label = "from push to ECR, 99 of 100, s", stat = "p99", yAxis = "right" }],
        ]
      }
    },
    {
      type = "metric", y = 22, width = 12, height = 6
      properties = {
        title = "Bytes and blobs", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["ghcr-to-ecr", "BytesCopied", { label = "bytes copied" }],
          ["ghcr-to-ecr", "BytesPresent", { label = "bytes present" }],
          ["ghcr-to-ecr", "BlobsCopied", { label = "blobs copied", yAxis = "right" }],
          ["ghcr-to-ecr", "BlobsMounted", { label = "blobs mounted", yAxis = "right" }],
          ["ghcr-to-ecr", "BlobsPresent", { label = "blobs present", yAxis = "right" }],
        ]
      }
    },
    {
      type = "metric", x = 12, y = 22, width = 12, height = 6
      properties = {
        title = "Patience with registries", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["ghcr-to-ecr", "Retries", { label = "retries" }],
          ["ghcr-to-ecr", "Throttled", { label = "answers 429" }],
        ]
      }
    },
    {
      type = "metric", y = 28, width = 12, height = 6
      properties = {
        title = "Schedule and token", region = local.region, stat = "Sum", period = 3600
        metrics = [
          ["ghcr-to-ecr", "CompletedRuns", { label = "completed runs" }],
          ["ghcr-to-ecr", "TokenDaysLeft", { label = "days until a token expires", stat = "Minimum", yAxis = "right" }],
        ]
      }
    },
    {
      type = "metric", x = 12, y = 28, width = 12, height = 6
      properties = {
        title = "Copy function", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["AWS/Lambda", "Invocations", "FunctionName", aws_lambda_function.copy.function_name],
          ["AWS/Lambda", "Errors", "FunctionName", aws_lambda_function.copy.function_name],
          ["AWS/Lambda", "Throttles", "FunctionName", aws_lambda_function.copy.function_name],
          ["AWS/Lambda", "Duration", "FunctionName", aws_lambda_function.copy.function_name, { stat = "Maximum", yAxis = "right" }],
        ]
      }
    },
    {
      type = "metric", y = 34, width = 12, height = 6
      properties = {
        title = "Webhook function", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["AWS/Lambda", "Invocations", "FunctionName", aws_lambda_function.webhook.function_name],
          ["AWS/Lambda", "Errors", "FunctionName", aws_lambda_function.webhook.function_name],
          ["AWS/Lambda", "Throttles", "FunctionName", aws_lambda_function.webhook.function_name],
        ]
      }
    },
    {
      type = "metric", x = 12, y = 34, width = 12, height = 6
      properties = {
        title = "Webhooks", region = local.region, stat = "Sum", period = 300
        metrics = [
          ["AWS/ApiGateway", "Count", "ApiId", aws_apigatewayv2_api.webhook.id],
          ["AWS/ApiGateway", "4xx", "ApiId", aws_apigatewayv2_api.webhook.id],
          ["AWS/ApiGateway", "5xx", "ApiId", aws_apigatewayv2_api.webhook.id],
          [var.name, "WebhookThrottling", { label = "429" }],
          ["AWS/ApiGateway", "Latency", "ApiId", aws_apigatewayv2_api.webhook.id, { stat = "p99", yAxis = "right" }],
        ]
      }
    },
    {
      type = "log", y = 40, width = 24, height = 6
      properties = {
        title = "Warnings and errors", region = local.region
        query = "SOURCE '${aws_cloudwatch_log_group.copy.name}' | SOURCE '${aws_cloudwatch_log_group.webhook.name}' | fields @timestamp, @message | filter level in ['WARN', 'ERROR'] | sort @timestamp desc | limit 50"
      }
    },
  ]
}

resource "aws_cloudwatch_dashboard" "this" {
  dashboard_name = "${var.name}-${local.region}"
  dashboard_body = jsonencode({ widgets = local.widgets })
}
