# Whoever may put events on the bus may have images copied, as far as the rules go: nothing is signed there.

resource "aws_cloudwatch_event_rule" "github" {
  count = var.event_bus_name == "" ? 0 : 1

  name           = "${var.name}-github"
  description    = "GitHub's package events"
  event_bus_name = var.event_bus_name
  event_pattern = jsonencode({
    source      = var.event_sources
    detail-type = ["package", "registry_package"]
  })
}

resource "aws_cloudwatch_event_target" "github" {
  count = var.event_bus_name == "" ? 0 : 1

  event_bus_name = var.event_bus_name
  rule           = aws_cloudwatch_event_rule.github[0].name
  target_id      = "copy"
  arn            = aws_lambda_function.copy.arn
}

resource "aws_lambda_permission" "github" {
  count = var.event_bus_name == "" ? 0 : 1

  action        = "lambda:InvokeFunction"
  function_name = aws_lambda_function.copy.function_name
  principal     = "events.amazonaws.com"
  source_arn    = aws_cloudwatch_event_rule.github[0].arn
}
