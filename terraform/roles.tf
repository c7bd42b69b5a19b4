# What each function may do, and nothing else. A statement that stands in a for expression is there only if its condition holds.

locals {
  trusts_lambda = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "lambda.amazonaws.com" }
      Action    = "sts:AssumeRole"
    }]
  })

  permissions_boundary = var.permissions_boundary_arn == "" ? null : var.permissions_boundary_arn

  statements_of_both = concat(
    # These actions know no resources.
    [for statement in [{
      Sid      = "Traces"
      Effect   = "Allow"
      Action   = ["xray:PutTraceSegments", "xray:PutTelemetryRecords"]
      Resource = "*"
    }] : statement if var.xray_tracing],

    [for statement in [{
      Sid       = "QueueKey"
      Effect    = "Allow"
      Action    = ["kms:Decrypt", "kms:GenerateDataKey"]
      Resource  = var.queue_key_arn
      Condition = { StringEquals = { "kms:ViaService" = "sqs.${local.region}.${local.dns_suffix}" } }
    }] : statement if var.queue_key_arn != ""],

    # Lambda itself uses these for a function in a VPC, which the functions' code may not. They know no resources.
    [for statement in [
      {
        Sid    = "NetworkInterfaces"
        Effect = "Allow"
        Action = [
          "ec2:AssignPrivateIpAddresses",
          "ec2:CreateNetworkInterface",
          "ec2:DeleteNetworkInterface",
          "ec2:DescribeNetworkInterfaces",
          "ec2:DescribeSubnets",
          "ec2:UnassignPrivateIpAddresses",
        ]
        Resource = "*"
      },
      {
        Sid      = "NoNetworkInterfacesForTheCode"
        Effect   = "Deny"
        Action   = "ec2:*"
        Resource = "*"
        Condition = {
          ArnLike = {
            "lambda:SourceFunctionArn" = "arn:${local.partition}:lambda:${local.region}:${local.account_id}:function:*"
          }
        }
      },
    ] : statement if local.has_vpc],

    [for statement in [{
      Sid      = "Rules"
      Effect   = "Allow"
      Action   = "secretsmanager:GetSecretValue"
      Resource = local.rules_secret_arn
    }] : statement if local.has_rules_secret],

    [for statement in [{
      Sid       = "SecretsKey"
      Effect    = "Allow"
      Action    = "kms:Decrypt"
      Resource  = var.secrets_key_arn
      Condition = { StringEquals = { "kms:ViaService" = "secretsmanager.${local.region}.${local.dns_suffix}" } }
    }] : statement if var.secrets_key_arn != ""],
  )
}

resource "aws_iam_role" "webhook" {
  name_prefix          = "${var.name}-webhook-"
  description          = "What WebhookFunction may do, and nothing else"
  path                 = var.role_path
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.trusts_lambda
}

resource "aws_iam_role_policy" "webhook" {
  name = "webhook"
  role = aws_iam_role.webhook.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        {
          Sid      = "HandOver"
          Effect   = "Allow"
          Action   = "sqs:SendMessage"
          Resource = aws_sqs_queue.jobs.arn
        },
        {
          Sid      = "Logs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = "${aws_cloudwatch_log_group.webhook.arn}:*"
        },
      ],
      local.statements_of_both,
      [for statement in [{
        Sid      = "WebhookSecret"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.webhook_secret_arn
      }] : statement if var.webhook_secret_arn != ""],
    )
  })
}

resource "aws_iam_role" "copy" {
  name_prefix          = "${var.name}-copy-"
  description          = "What CopyFunction may do, and nothing else"
  path                 = var.role_path
  permissions_boundary = local.permissions_boundary
  assume_role_policy   = local.trusts_lambda
}

resource "aws_iam_role_policy" "copy" {
  name = "copy"
  role = aws_iam_role.copy.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = concat(
      [
        # This action knows no resources; the token opens no more than the statement after it.
        {
          Sid      = "RegistryToken"
          Effect   = "Allow"
          Action   = "ecr:GetAuthorizationToken"
          Resource = "*"
        },
        {
          Sid    = "Push"
          Effect = "Allow"
          Action = [
            "ecr:BatchCheckLayerAvailability",
            "ecr:BatchGetImage",
            "ecr:InitiateLayerUpload",
            "ecr:UploadLayerPart",
            "ecr:CompleteLayerUpload",
            "ecr:PutImage",
          ]
          Resource = var.destination_repositories
        },
        # Mount layers that another of the repositories has, where the account has blob mounting enabled; the function does without
        # where this is missing.
        {
          Sid      = "MountLayers"
          Effect   = "Allow"
          Action   = "ecr:GetDownloadUrlForLayer"
          Resource = var.destination_repositories
        },
        # Know before a byte moves that a tag is immutable; the function does without where this is missing.
        {
          Sid      = "TagMutability"
          Effect   = "Allow"
          Action   = "ecr:DescribeRepositories"
          Resource = var.destination_repositories
        },
        # Know before a byte moves that ECR fills a repository itself; the function does without where this is missing. The action knows
        # no resources: the rules are the registry's.
        {
          Sid      = "PullThroughCacheRules"
          Effect   = "Allow"
          Action   = "ecr:DescribePullThroughCacheRules"
          Resource = "*"
        },
        # What is archived, and how old it is; and for a check, what a lifecycle policy lets expire.
        {
          Sid      = "Look"
          Effect   = "Allow"
          Action   = ["ecr:DescribeImages", "ecr:GetLifecyclePolicy"]
          Resource = var.destination_repositories
        },
        {
          Sid    = "Jobs"
          Effect = "Allow"
          Action = [
            "sqs:ReceiveMessage",
            "sqs:DeleteMessage",
            "sqs:GetQueueAttributes",
            "sqs:ChangeMessageVisibility",
          ]
          Resource = aws_sqs_queue.jobs.arn
        },
        # Jobs of a scheduled run and the rest of a copy that was cut; what can't succeed; a failed event.
        {
          Sid      = "HandOver"
          Effect   = "Allow"
          Action   = "sqs:SendMessage"
          Resource = [aws_sqs_queue.jobs.arn, aws_sqs_queue.dead_letters.arn, aws_sqs_queue.failures.arn]
        },
        # For a check: whether it is there.
        {
          Sid      = "LookAtDeadLetters"
          Effect   = "Allow"
          Action   = "sqs:GetQueueAttributes"
          Resource = aws_sqs_queue.dead_letters.arn
        },
        {
          Sid      = "Logs"
          Effect   = "Allow"
          Action   = ["logs:CreateLogStream", "logs:PutLogEvents"]
          Resource = "${aws_cloudwatch_log_group.copy.arn}:*"
        },
      ],
      local.statements_of_both,

      # Create what is missing, see how it is set up, and put right what differs from the rules. The templates are the registry's, so
      # that their action knows no resources.
      [for statement in [
        {
          Sid    = "ManageRepositories"
          Effect = "Allow"
          Action = [
            "ecr:CreateRepository",
            "ecr:DescribeRepositories",
            "ecr:GetLifecyclePolicy",
            "ecr:GetRepositoryPolicy",
            "ecr:ListTagsForResource",
            "ecr:PutImageScanningConfiguration",
            "ecr:PutImageTagMutability",
            "ecr:PutLifecyclePolicy",
            "ecr:SetRepositoryPolicy",
            "ecr:TagResource",
          ]
          Resource = var.destination_repositories
        },
        {
          Sid      = "CreationTemplates"
          Effect   = "Allow"
          Action   = "ecr:DescribeRepositoryCreationTemplates"
          Resource = "*"
        },
      ] : statement if var.manage_repositories],

      # ECR makes its grants on the key when the repository is created.
      [for statement in [{
        Sid       = "RepositoryKey"
        Effect    = "Allow"
        Action    = ["kms:CreateGrant", "kms:DescribeKey", "kms:RetireGrant"]
        Resource  = var.repository_key_arn
        Condition = { StringEquals = { "kms:ViaService" = "ecr.${local.region}.${local.dns_suffix}" } }
      }] : statement if var.manage_repositories && var.repository_key_arn != ""],

      [for statement in [{
        Sid      = "Prune"
        Effect   = "Allow"
        Action   = "ecr:BatchDeleteImage"
        Resource = var.destination_repositories
      }] : statement if var.allow_prune],

      [for statement in [{
        Sid      = "ReportBus"
        Effect   = "Allow"
        Action   = ["events:PutEvents", "events:DescribeEventBus"]
        Resource = var.report_bus
      }] : statement if var.report_bus != ""],

      [for statement in [{
        Sid      = "GhcrToken"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.ghcr_token_secret_arn
      }] : statement if var.ghcr_token_secret_arn != ""],

      [for statement in [{
        Sid      = "RuleTokens"
        Effect   = "Allow"
        Action   = "secretsmanager:GetSecretValue"
        Resource = var.rule_token_secret_arns
      }] : statement if length(var.rule_token_secret_arns) > 0],
    )
  })
}

resource "aws_iam_role" "schedule" {
  name_prefix          = "${var.name}-schedule-"
  description          = "What EventBridge Scheduler may do, and nothing else"
  path                 = var.role_path
  permissions_boundary = local.permissions_boundary
  assume_role_policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Effect    = "Allow"
      Principal = { Service = "scheduler.amazonaws.com" }
      Action    = "sts:AssumeRole"
      Condition = { StringEquals = { "aws:SourceAccount" = local.account_id } }
    }]
  })
}

resource "aws_iam_role_policy" "schedule" {
  name = "schedule"
  role = aws_iam_role.schedule.id
  policy = jsonencode({
    Version = "2012-10-17"
    Statement = [{
      Sid      = "Run"
      Effect   = "Allow"
      Action   = "lambda:InvokeFunction"
      Resource = aws_lambda_function.copy.arn
    }]
  })
}
