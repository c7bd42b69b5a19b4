resource "aws_scheduler_schedule" "runs" {
  #checkov:skip=CKV_AWS_297:The schedule holds nothing but the function's ARN
  name                = "${var.name}-runs"
  description         = "Compares the registries, and finds what no webhook told"
  schedule_expression = var.schedule_expression
  state               = var.schedule_state

  flexible_time_window {
    mode                      = "FLEXIBLE"
    maximum_window_in_minutes = 5
  }

  target {
    arn      = aws_lambda_function.copy.arn
    role_arn = aws_iam_role.schedule.arn

    # Of the delivery to Lambda. The next run finds what this one would have.
    retry_policy {
      maximum_retry_attempts       = 3
      maximum_event_age_in_seconds = 900
    }
  }

  # EventBridge Scheduler looks whether it may take on the role, not what that allows.
  depends_on = [aws_iam_role_policy.schedule]
}
