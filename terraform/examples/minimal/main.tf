# One ECR repository, filled from the GHCR packages of one owner. The two secrets are there already: the project's README, "Deploy",
# says how they are stored.

variable "zip_path" {
  description = "Path of the function's zip, as `make package` leaves it in target/package."
  type        = string
}

provider "aws" {
  region = "eu-west-3"
}

data "aws_secretsmanager_secret" "token" {
  name = "ghcr/token"
}

data "aws_secretsmanager_secret" "webhook" {
  name = "ghcr/webhook"
}

resource "aws_ecr_repository" "api" {
  #checkov:skip=CKV_AWS_51:A tag that moves at GHCR has to move here
  #checkov:skip=CKV_AWS_136:ECR encrypts it with AES-256
  name = "prod/api"

  image_scanning_configuration {
    scan_on_push = true
  }
}

module "ghcr_to_ecr" {
  source = "../.."

  zip_path = var.zip_path

  rules = [{
    source       = "acme/api"
    destinations = [{ to = "prod/{name}" }]
    tags         = { exclude = ["pr-*"], newest = 10 }
  }]

  destination_repositories = [aws_ecr_repository.api.arn]
  ghcr_token_secret_arn    = data.aws_secretsmanager_secret.token.arn
  webhook_secret_arn       = data.aws_secretsmanager_secret.webhook.arn
}

output "webhook_url" {
  value = module.ghcr_to_ecr.webhook_url
}

output "function_name" {
  value = module.ghcr_to_ecr.function_name
}
