# In a governed account: a VPC whose way out is a proxy, a permissions boundary, own keys, tags, and the zip in S3.

variable "artifacts" {
  description = "Where the function's zip is."
  type        = object({ bucket = string, key = string, version = string })
}

variable "vpc" {
  description = "The VPC, and its private subnets in several Availability Zones."
  type        = object({ id = string, subnet_ids = list(string) })
}

variable "proxy" {
  description = "The proxy's URL, and its addresses."
  type        = object({ url = string, port = number, cidr = string })
}

variable "permissions_boundary_arn" {
  description = "The boundary that every role has to have."
  type        = string
}

variable "key_arn" {
  description = "The KMS key of queues and logs. Its policy has the statement of the project's README for CloudWatch Logs."
  type        = string
}

provider "aws" {
  region = "eu-west-3"

  default_tags {
    tags = { Team = "platform", Service = "ghcr-to-ecr" }
  }
}

data "aws_caller_identity" "this" {}

data "aws_secretsmanager_secret" "token" {
  name = "ghcr/token"
}

data "aws_secretsmanager_secret" "webhook" {
  name = "ghcr/webhook"
}

resource "aws_security_group" "functions" {
  name_prefix = "ghcr-to-ecr-"
  description = "Lets ghcr-to-ecr out to the proxy, and nothing in"
  vpc_id      = var.vpc.id
}

resource "aws_vpc_security_group_egress_rule" "proxy" {
  security_group_id = aws_security_group.functions.id
  description       = "The proxy"
  ip_protocol       = "tcp"
  from_port         = var.proxy.port
  to_port           = var.proxy.port
  cidr_ipv4         = var.proxy.cidr
}

module "ghcr_to_ecr" {
  source = "../.."

  s3_bucket         = var.artifacts.bucket
  s3_key            = var.artifacts.key
  s3_object_version = var.artifacts.version

  rules                    = [{ source = "acme/*", destinations = [{ to = "prod/{name}" }] }]
  destination_repositories = ["arn:aws:ecr:eu-west-3:${data.aws_caller_identity.this.account_id}:repository/prod/*"]
  ghcr_token_secret_arn    = data.aws_secretsmanager_secret.token.arn
  webhook_secret_arn       = data.aws_secretsmanager_secret.webhook.arn

  subnet_ids               = var.vpc.subnet_ids
  security_group_ids       = [aws_security_group.functions.id]
  https_proxy              = var.proxy.url
  permissions_boundary_arn = var.permissions_boundary_arn
  role_path                = "/platform/"
  queue_key_arn            = var.key_arn
  log_key_arn              = var.key_arn
}

output "webhook_url" {
  value = module.ghcr_to_ecr.webhook_url
}

output "function_name" {
  value = module.ghcr_to_ecr.function_name
}
