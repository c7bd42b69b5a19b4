# All packages of a GitHub organisation, with its webhook. The function creates the repositories, and the schedule is enabled: look at a
# dry run first, as the project's README says.

variable "zip_path" {
  description = "Path of the function's zip."
  type        = string
}

variable "alarm_topic_arn" {
  description = "SNS topic that hears of alarms."
  type        = string
}

provider "aws" {
  region = "eu-west-3"
}

# Its token comes from GITHUB_TOKEN, and needs admin:org_hook.
provider "github" {
  owner = "acme"
}

data "aws_caller_identity" "this" {}

data "aws_secretsmanager_secret" "token" {
  name = "ghcr/token"
}

data "aws_secretsmanager_secret" "webhook" {
  name = "ghcr/webhook"
}

# The secret itself, which is bare text. GitHub's provider takes it only as an argument that is kept in the state, so whoever may read the state can forge
# webhooks: encrypt the state, and let few read it. To keep the secret out of it, leave out this and github_organization_webhook, and add
# the webhook by hand.
data "aws_secretsmanager_secret_version" "webhook" {
  secret_id = data.aws_secretsmanager_secret.webhook.id
}

module "ghcr_to_ecr" {
  source = "../.."

  zip_path = var.zip_path

  rules = [{
    source = "acme/*"
    destinations = [
      { to = "prod/{name}" },
      { to = "prod/{name}:{tag}-{digest8}" },
    ]
    tags       = { exclude = ["pr-*"], newest = 10 }
    repository = { create = true, scan_on_push = true }
  }]

  destination_repositories = ["arn:aws:ecr:eu-west-3:${data.aws_caller_identity.this.account_id}:repository/prod/*"]
  manage_repositories      = true
  ghcr_token_secret_arn    = data.aws_secretsmanager_secret.token.arn
  webhook_secret_arn       = data.aws_secretsmanager_secret.webhook.arn
  schedule_state           = "ENABLED"
  alarm_topic_arn          = var.alarm_topic_arn
}

resource "github_organization_webhook" "packages" {
  events = ["package"]

  configuration {
    url          = module.ghcr_to_ecr.webhook_url
    content_type = "json"
    secret       = data.aws_secretsmanager_secret_version.webhook.secret_string
  }
}

output "function_name" {
  value = module.ghcr_to_ecr.function_name
}
