# The rules as the function reads them. It refuses null where a field is left out, so what is null here is not written.

locals {
  rules_json = jsonencode([
    for rule in var.rules : {
      for field, value in merge(rule, {
        destinations = null
        destination = [
          for destination in rule.destinations : { for field, value in destination : field => value if value != null }
        ]
        tags = rule.tags == null ? null : { for field, value in rule.tags : field => value if value != null }
        require = rule.require == null ? null : [
          for required in rule.require : {
            for kind, value in merge(required, {
              attestation = required.attestation == null ? null : {
                for field, value in required.attestation : field => value if value != null
              }
            }) : kind => value if value != null
          }
        ]
        repository = rule.repository == null ? null : {
          for field, value in merge(rule.repository, {
            lifecycle_policy = rule.repository.lifecycle_policy == null ? null : jsondecode(rule.repository.lifecycle_policy)
            policy           = rule.repository.policy == null ? null : jsondecode(rule.repository.policy)
            encryption = rule.repository.encryption == null ? null : jsondecode(
              rule.repository.encryption.kms_key == null ? jsonencode("AES256") : jsonencode(rule.repository.encryption)
            )
          }) : field => value if value != null
        }
      }) : field => value if value != null
    }
  ])

  rules_secret_arn = var.rules_in_secret ? one(aws_secretsmanager_secret.rules[*].arn) : var.rules_secret_arn
  has_rules_secret = var.rules_in_secret || var.rules_secret_arn != ""
}

# The rules are in the configuration, so that nothing is lost with the secret.
resource "aws_secretsmanager_secret" "rules" {
  #checkov:skip=CKV2_AWS_57:Nothing is there to rotate
  count = var.rules_in_secret ? 1 : 0

  name_prefix             = "${var.name}-rules-"
  description             = "The rules of ${var.name}: which packages are copied, and where to"
  kms_key_id              = var.secrets_key_arn == "" ? null : var.secrets_key_arn
  recovery_window_in_days = 0
}

resource "aws_secretsmanager_secret_version" "rules" {
  count = var.rules_in_secret ? 1 : 0

  secret_id     = aws_secretsmanager_secret.rules[0].id
  secret_string = local.rules_json
}
