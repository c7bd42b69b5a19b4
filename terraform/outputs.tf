output "webhook_url" {
  description = "Payload URL of the GitHub webhook (content type application/json, event Packages)"
  value       = "${aws_apigatewayv2_api.webhook.api_endpoint}/webhook"
}

output "function_name" {
  description = "The copy function, for aws lambda invoke"
  value       = aws_lambda_function.copy.function_name
}

output "function_arn" {
  description = "The copy function, for permissions and event targets"
  value       = aws_lambda_function.copy.arn
}

output "role_arn" {
  description = "The copy function's role, for the repository policy of an ECR repository in another account"
  value       = aws_iam_role.copy.arn
}

output "log_group_name" {
  description = "The copy function's log, for aws logs tail"
  value       = aws_cloudwatch_log_group.copy.name
}

output "webhook_function_name" {
  description = "The webhook function"
  value       = aws_lambda_function.webhook.function_name
}

output "webhook_log_group_name" {
  description = "The webhook function's log, for aws logs tail"
  value       = aws_cloudwatch_log_group.webhook.name
}

output "job_queue_url" {
  description = "Queue that takes direct events as messages"
  value       = aws_sqs_queue.jobs.url
}

output "job_queue_arn" {
  description = "For aws sqs start-message-move-task --destination-arn"
  value       = aws_sqs_queue.jobs.arn
}

output "dead_letter_queue_url" {
  description = "Jobs that could not be done, with the reason"
  value       = aws_sqs_queue.dead_letters.url
}

output "dead_letter_queue_arn" {
  description = "For aws sqs start-message-move-task --source-arn, once the cause is removed"
  value       = aws_sqs_queue.dead_letters.arn
}

output "failure_queue_url" {
  description = "Scheduled and asynchronous invocations that failed for good"
  value       = aws_sqs_queue.failures.url
}
