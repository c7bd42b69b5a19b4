# The groups of the functions are not those that Lambda makes by itself: a role refers to its group, and a function to both.

resource "aws_cloudwatch_log_group" "webhook" {
  #checkov:skip=CKV_AWS_338:log_retention_days says how long they are kept
  name              = "/aws/lambda/${var.name}-webhook"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_key_arn == "" ? null : var.log_key_arn
}

resource "aws_cloudwatch_log_group" "copy" {
  #checkov:skip=CKV_AWS_338:log_retention_days says how long they are kept
  name              = "/aws/lambda/${var.name}-copy"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_key_arn == "" ? null : var.log_key_arn
}

resource "aws_cloudwatch_log_group" "access" {
  #checkov:skip=CKV_AWS_338:log_retention_days says how long they are kept
  name              = "/aws/vendedlogs/${var.name}-webhook"
  retention_in_days = var.log_retention_days
  kms_key_id        = var.log_key_arn == "" ? null : var.log_key_arn
}
