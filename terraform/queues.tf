# First in, first out for each tag, so that none is written by two copies at once; different tags run side by side.
resource "aws_sqs_queue" "jobs" {
  name                  = "${var.name}-jobs.fifo"
  fifo_queue            = true
  deduplication_scope   = "messageGroup"
  fifo_throughput_limit = "perMessageGroupId"
  # Twice the copy function's timeout. Lambda holds a message for a while where the account's concurrency is used up; with the timeout
  # alone the message could come back, and its copy start again, while the first copy still runs. After a failure that the function
  # sees, the function itself says when the message comes back; only where it was killed does the message, and with it the later jobs
  # of the same tag, wait for this long.
  visibility_timeout_seconds = 1800
  # SQS's maximum, 14 days. A message that expires here is lost, and is not moved to the dead-letter queue.
  message_retention_seconds = 1209600
  sqs_managed_sse_enabled   = var.queue_key_arn == "" ? true : null
  kms_master_key_id         = var.queue_key_arn == "" ? null : var.queue_key_arn

  # Twelve receives outlast an outage of half an hour: the waits between them, which template.yaml adds up, take 45 minutes at least.
  redrive_policy = jsonencode({
    deadLetterTargetArn = aws_sqs_queue.dead_letters.arn
    maxReceiveCount     = 12
  })
}

# Jobs that failed twelve times, and at once those that can't succeed, with `error` and `error_kind` as attributes. The project's README
# says how to send them back to the job queue.
resource "aws_sqs_queue" "dead_letters" {
  name                      = "${var.name}-dead-letters.fifo"
  fifo_queue                = true
  deduplication_scope       = "messageGroup"
  fifo_throughput_limit     = "perMessageGroupId"
  message_retention_seconds = 1209600 # 14 days, SQS's maximum
  sqs_managed_sse_enabled   = var.queue_key_arn == "" ? true : null
  kms_master_key_id         = var.queue_key_arn == "" ? null : var.queue_key_arn
}

# Scheduled and asynchronous invocations that failed for good, event and error. Lambda writes to standard queues only.
resource "aws_sqs_queue" "failures" {
  name                      = "${var.name}-failures"
  message_retention_seconds = 1209600 # 14 days, SQS's maximum
  sqs_managed_sse_enabled   = var.queue_key_arn == "" ? true : null
  kms_master_key_id         = var.queue_key_arn == "" ? null : var.queue_key_arn
}

resource "aws_sqs_queue_policy" "only_tls" {
  for_each = {
    jobs         = aws_sqs_queue.jobs
    dead_letters = aws_sqs_queue.dead_letters
    failures     = aws_sqs_queue.failures
  }

  queue_url = each.value.url
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid       = "OnlyTls"
      Effect    = "Deny"
      Principal = "*"
      Action    = "sqs:*"
      Resource  = each.value.arn
      Condition = { Bool = { "aws:SecureTransport" = "false" } }
    }]
  })
}
