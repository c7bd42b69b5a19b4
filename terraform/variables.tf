# The variables are template.yaml's parameters, by the same words and with the same defaults; null stands for the default.
# Besides them: what the resources are called, where the function's zip is, and whether the module puts the rules into a secret.

variable "name" {
  description = "What the names of all resources begin with. Two of one account and Region need different ones."
  type        = string
  default     = "ghcr-to-ecr"
  nullable    = false

  # IAM takes 38 characters of a role's name prefix, of which -schedule- has ten.
  validation {
    condition     = can(regex("^[A-Za-z][A-Za-z0-9-]{0,27}$", var.name))
    error_message = "The name begins with a letter, and has at most 28 letters, digits and hyphens."
  }
}

# The function's code: a zip on this machine, or an object in S3. The module downloads nothing.

variable "zip_path" {
  description = "Path of the function's zip on the machine that runs Terraform. Empty where it is in S3."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = (var.zip_path == "") != (var.s3_bucket == "" && var.s3_key == "")
    error_message = "Give either zip_path, or s3_bucket and s3_key."
  }
}

variable "s3_bucket" {
  description = "Bucket in this Region that holds the function's zip. Empty where zip_path names a file."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = (var.s3_bucket == "") == (var.s3_key == "")
    error_message = "Give s3_bucket and s3_key together."
  }
}

variable "s3_key" {
  description = "Key of the zip in that bucket."
  type        = string
  default     = ""
  nullable    = false
}

variable "s3_object_version" {
  description = "Version of that object. Without it a new zip under the same key is not noticed."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = var.s3_object_version == "" || var.s3_key != ""
    error_message = "s3_object_version belongs to s3_bucket and s3_key; zip_path has no versions."
  }
}

# What is copied, and where to.

variable "rules" {
  description = <<-EOT
    Which packages may be copied, and where to: the rules of the README, each with all of its destinations as a list of objects.
    An encryption without kms_key is AES256; lifecycle_policy and policy are JSON, as jsonencode writes it.
    Terraform drops an attribute that is not of this type without a word: see the README.
  EOT
  type = list(object({
    source = string
    destinations = list(object({
      to        = string
      platform  = optional(string)
      platforms = optional(list(string))
    }))
    tags = optional(object({
      include = optional(list(string))
      exclude = optional(list(string))
      semver  = optional(string)
      newest  = optional(number)
      min_age = optional(string)
    }))
    platform  = optional(string)
    platforms = optional(list(string))
    referrers = optional(bool)
    require = optional(list(object({
      attestation = optional(object({
        repository = optional(string)
        workflow   = optional(string)
        ref        = optional(string)
        runner     = optional(string)
        predicate  = optional(string)
      }))
      cosign_key = optional(string)
    })))
    prune           = optional(bool)
    token_secret_id = optional(string)
    repository = optional(object({
      create                    = optional(bool)
      scan_on_push              = optional(bool)
      tag_mutability            = optional(string)
      tag_mutability_exclusions = optional(list(string))
      lifecycle_keep            = optional(number)
      lifecycle_policy          = optional(string)
      encryption                = optional(object({ kms_key = optional(string) }))
      policy                    = optional(string)
      resource_tags             = optional(map(string))
    }))
  }))
  default  = []
  nullable = false

  validation {
    condition     = (length(var.rules) == 0) != (var.rules_secret_arn == "")
    error_message = "Give either rules, or rules_secret_arn."
  }

  validation {
    condition     = alltrue([for rule in var.rules : can(regex("^[a-z0-9][a-z0-9_-]*/[^A-Z]+$", rule.source))])
    error_message = "A rule's source is owner/name in lower case, with the owner written out, such as acme/*."
  }

  validation {
    condition     = alltrue([for count in [for rule in var.rules : try(length(rule.destinations), 0)] : count >= 1 && count <= 64])
    error_message = "A rule has 1 to 64 destinations."
  }

  validation {
    condition     = alltrue([for destination in flatten(var.rules[*].destinations) : try(destination.to, null) != null])
    error_message = "Each of a rule's destinations says where the image goes: to."
  }

  validation {
    condition = alltrue([
      for form in flatten([for rule in var.rules : concat(rule.destinations, [{ to = "", platform = rule.platform, platforms = rule.platforms }])]) :
      form.platform == null || form.platforms == null
    ])
    error_message = "A rule, or one of its destinations, has platform or platforms, not both."
  }

  validation {
    condition = alltrue([
      for rule in var.rules : try(rule.tags.newest, null) == null ? true : rule.tags.newest >= 1 && floor(rule.tags.newest) == rule.tags.newest
    ])
    error_message = "A rule's tags.newest is a whole number from 1."
  }

  validation {
    condition = alltrue([
      for rule in var.rules : try(rule.tags.min_age, null) == null ? true : can(regex("^[0-9]*[1-9][0-9]*[mhd]$", rule.tags.min_age))
    ])
    error_message = "A rule's tags.min_age is a whole number with a unit, such as 30m, 24h or 7d."
  }

  # What asks for nothing would let everything through.
  validation {
    condition = alltrue([
      for rule in var.rules : rule.require == null ? true : length(rule.require) >= 1 && alltrue([
        for required in rule.require : (required.attestation == null) != (required.cosign_key == null)
      ])
    ])
    error_message = "A rule's require is a list of at least one object, each with attestation or cosign_key, not both."
  }

  validation {
    condition = alltrue([
      for rule in var.rules : try(rule.repository.tag_mutability, null) == null ? true : contains(
        ["MUTABLE", "IMMUTABLE", "MUTABLE_WITH_EXCLUSION", "IMMUTABLE_WITH_EXCLUSION"], rule.repository.tag_mutability
      )
    ])
    error_message = "A rule's repository.tag_mutability is MUTABLE, IMMUTABLE, MUTABLE_WITH_EXCLUSION or IMMUTABLE_WITH_EXCLUSION."
  }

  validation {
    condition = alltrue([
      for rule in var.rules :
      endswith(coalesce(try(rule.repository.tag_mutability, null), "-"), "_WITH_EXCLUSION") == (try(rule.repository.tag_mutability_exclusions, null) != null)
    ])
    error_message = "A rule's repository.tag_mutability_exclusions goes with a tag_mutability that ends in _WITH_EXCLUSION, and only with that."
  }

  validation {
    condition = alltrue([
      for rule in var.rules : try(rule.repository.lifecycle_keep, null) == null || try(rule.repository.lifecycle_policy, null) == null
    ])
    error_message = "A rule's repository has lifecycle_keep or lifecycle_policy, not both."
  }

  validation {
    condition = alltrue([
      for text in flatten([for rule in var.rules : [try(rule.repository.lifecycle_policy, null), try(rule.repository.policy, null)]]) :
      text == null ? true : can(keys(jsondecode(text)))
    ])
    error_message = "A rule's repository.lifecycle_policy and repository.policy are JSON objects, as jsonencode writes them."
  }
}

variable "rules_in_secret" {
  description = "Whether the module puts the rules into a Secrets Manager secret, for rules that are longer than 2,000 characters as JSON."
  type        = bool
  default     = false
  nullable    = false

  validation {
    condition     = !var.rules_in_secret || var.rules_secret_arn == ""
    error_message = "rules_secret_arn names a secret with the rules already; leave out rules_in_secret."
  }
}

variable "rules_secret_arn" {
  description = "ARN of a secret that holds the rules as a JSON array. Empty where rules has them."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:secretsmanager:.+)?$", var.rules_secret_arn))
    error_message = "rules_secret_arn must be the ARN of a Secrets Manager secret, or empty."
  }
}

variable "destination_repositories" {
  description = "ARNs of the ECR repositories that the function may push to; * is a wildcard. For example arn:aws:ecr:eu-west-3:123456789012:repository/prod/*. There is no default on purpose."
  type        = list(string)
  nullable    = false

  validation {
    condition     = length(var.destination_repositories) >= 1
    error_message = "The function has to have at least one repository that it may push to."
  }
}

variable "manage_repositories" {
  description = "Whether the function may create these repositories and change their settings, which the rules' field repository asks for."
  type        = bool
  default     = false
  nullable    = false
}

variable "repository_key_arn" {
  description = "The KMS key that the rules' encryption names, for repositories that the function creates. Empty for none."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:kms:.+)?$", var.repository_key_arn))
    error_message = "repository_key_arn must be the ARN of a KMS key, or empty."
  }
}

variable "exclude_pull_times" {
  description = "What the function looks at while it compares does not count as a pull, so that lifecycle rules by the time of the last pull keep working. false where the Region does not know it yet."
  type        = bool
  default     = true
  nullable    = false
}

# Secrets.

variable "ghcr_token_secret_arn" {
  description = "Secret with the GitHub token (classic, scope read:packages). Empty copies public images only."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:secretsmanager:.+)?$", var.ghcr_token_secret_arn))
    error_message = "ghcr_token_secret_arn must be the ARN of a Secrets Manager secret, or empty."
  }
}

variable "rule_token_secret_arns" {
  description = "Further secrets, those that the rules name as token_secret_id. Empty when there are none."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "webhook_secret_arn" {
  description = "Secret that GitHub signs its webhook with. Empty refuses every HTTP request."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:secretsmanager:.+)?$", var.webhook_secret_arn))
    error_message = "webhook_secret_arn must be the ARN of a Secrets Manager secret, or empty."
  }
}

variable "secrets_key_arn" {
  description = "The customer managed KMS key of these secrets. Empty for the AWS managed one."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:kms:.+)?$", var.secrets_key_arn))
    error_message = "secrets_key_arn must be the ARN of a KMS key, or empty."
  }
}

# Triggers.

variable "schedule_expression" {
  description = "How often the registries are compared, as EventBridge Scheduler writes it. GitHub repeats no webhook."
  type        = string
  default     = "rate(1 hour)"
  nullable    = false
}

# The first run copies whatever the rules admit, old tags too: nobody should meet that unprepared.
variable "schedule_state" {
  description = "Whether the schedule runs, ENABLED or DISABLED. Enable it once a dry run has shown what it would copy."
  type        = string
  default     = "DISABLED"
  nullable    = false

  validation {
    condition     = contains(["ENABLED", "DISABLED"], var.schedule_state)
    error_message = "schedule_state is ENABLED or DISABLED."
  }
}

variable "allow_prune" {
  description = "Whether scheduled runs may delete tags in ECR that GHCR no longer has, where a rule says prune = true. Without it the function has no right to delete anything."
  type        = bool
  default     = false
  nullable    = false
}

variable "event_bus_name" {
  description = "Event bus that receives GitHub's webhooks already, its name or ARN. Empty when there is none."
  type        = string
  default     = ""
  nullable    = false
}

variable "event_sources" {
  description = "The source values of the events on that bus that are taken for GitHub's."
  type        = list(string)
  default     = ["github.com", "github"]
  nullable    = false
}

variable "webhook_rate_limit" {
  description = "Requests a second that the webhook accepts, with bursts of a hundred."
  type        = number
  default     = 20
  nullable    = false

  validation {
    condition     = var.webhook_rate_limit >= 1
    error_message = "webhook_rate_limit is at least 1."
  }
}

variable "report_bus" {
  description = "ARN of an event bus in this Region that gets an event for each image that was copied or failed. One of another account has to allow the copy function's role events:PutEvents. Empty sends none."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:events:.+)?$", var.report_bus))
    error_message = "report_bus must be the ARN of an event bus, or empty."
  }
}

# Registries.

variable "source_registry" {
  description = "Where ghcr.io is reached, for a GitHub Enterprise host."
  type        = string
  default     = "https://ghcr.io"
  nullable    = false
}

variable "github_api_url" {
  description = "Where packages are listed, for a GitHub Enterprise host."
  type        = string
  default     = "https://api.github.com"
  nullable    = false
}

variable "destination_registry" {
  description = "Another registry host than the ECR of this account and Region. Empty for that one."
  type        = string
  default     = ""
  nullable    = false
}

# Functions.

variable "architecture" {
  description = "Processor that the functions' zip is built for, not that of the images: arm64 or x86_64. arm64 costs a fifth less."
  type        = string
  default     = "arm64"
  nullable    = false

  validation {
    condition     = contains(["arm64", "x86_64"], var.architecture)
    error_message = "architecture is arm64 or x86_64."
  }
}

variable "memory_size" {
  description = "Memory of the copy function in MiB. It also sets the share of a processor; the copy itself needs little."
  type        = number
  default     = 512
  nullable    = false

  validation {
    condition     = var.memory_size >= 128 && var.memory_size <= 10240
    error_message = "memory_size is 128 to 10240."
  }
}

# A new account may have no more than ten invocations at a time in all. Five copies and a scheduled run leave four, and a webhook
# takes one of them for less than a second.
variable "maximum_concurrency" {
  description = "Images that are copied at the same time. They share the account's concurrency with all other functions: leave some for the webhook, and one for the scheduled run."
  type        = number
  default     = 5
  nullable    = false

  validation {
    condition     = var.maximum_concurrency >= 2 && var.maximum_concurrency <= 1000
    error_message = "maximum_concurrency is 2 to 1000."
  }
}

variable "blob_concurrency" {
  description = "Blobs in flight in one invocation."
  type        = number
  default     = 6
  nullable    = false

  validation {
    condition     = var.blob_concurrency >= 1 && var.blob_concurrency <= 64
    error_message = "blob_concurrency is 1 to 64."
  }
}

# Operation.

variable "alarm_topic_arn" {
  description = "SNS topic that alarms are sent to. Empty only shows them."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:sns:.+)?$", var.alarm_topic_arn))
    error_message = "alarm_topic_arn must be the ARN of an SNS topic, or empty."
  }
}

# A day, and an hour more, as a daily run does not begin at the same minute each day.
variable "run_alarm_hours" {
  description = "Hours without a completed scheduled run after which an alarm goes off, where the schedule is enabled: more than lie between two of its runs. 0 for none, as for a schedule that runs once a week or less often."
  type        = number
  default     = 25
  nullable    = false

  # CloudWatch looks back for seven days at most.
  validation {
    condition     = var.run_alarm_hours >= 0 && var.run_alarm_hours <= 168
    error_message = "run_alarm_hours is 0 to 168."
  }
}

variable "log_level" {
  description = "The least severe log lines of the functions that are kept: TRACE, DEBUG, INFO, WARN, ERROR or FATAL."
  type        = string
  default     = "INFO"
  nullable    = false

  validation {
    condition     = contains(["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL"], var.log_level)
    error_message = "log_level is TRACE, DEBUG, INFO, WARN, ERROR or FATAL."
  }
}

variable "log_retention_days" {
  description = "Days that logs are kept."
  type        = number
  default     = 30
  nullable    = false

  validation {
    condition = contains(
      [1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653], var.log_retention_days
    )
    error_message = "log_retention_days is one of the numbers that CloudWatch Logs takes, such as 7, 30, 90 or 365."
  }
}

variable "xray_tracing" {
  description = "Whether Lambda records how long invocations take in AWS X-Ray, which is paid for by traces."
  type        = bool
  default     = false
  nullable    = false
}

# What the account asks for. Tags are the provider's default_tags.

variable "permissions_boundary_arn" {
  description = "The permissions boundary of every role. Empty for none."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:iam::.+)?$", var.permissions_boundary_arn))
    error_message = "permissions_boundary_arn must be the ARN of an IAM policy, or empty."
  }
}

variable "role_path" {
  description = "The path of every role, such as /application/."
  type        = string
  default     = "/"
  nullable    = false

  validation {
    condition     = can(regex("^/([!-.0-~]+/)*$", var.role_path))
    error_message = "role_path must begin and end with a slash."
  }
}

variable "subnet_ids" {
  description = "Subnets that both functions are attached to, in several Availability Zones. From there they have to reach ghcr.io, pkg-containers.githubusercontent.com and api.github.com, through a NAT gateway or https_proxy, and AWS. Empty for no VPC."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "security_group_ids" {
  description = "Security groups of both functions in these subnets. They need to let HTTPS out, and nothing in."
  type        = list(string)
  default     = []
  nullable    = false
}

variable "https_proxy" {
  description = "Proxy for everything that both functions send, to registries, GitHub and AWS, for example http://proxy.example.com:3128. Empty for none. Whoever may look at the functions sees it, so let it hold no password."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(https?://.+)?$", var.https_proxy))
    error_message = "https_proxy must be a URL, or empty."
  }
}

variable "no_proxy" {
  description = "Hosts that are reached without the proxy, separated by commas, their subdomains included: those that have VPC endpoints, for example eu-west-3.amazonaws.com for all of AWS in a Region."
  type        = string
  default     = ""
  nullable    = false
}

variable "queue_key_arn" {
  description = "The customer managed KMS key of the three queues. Its policy has to leave access to IAM, as the default one does. Who reads or moves messages needs kms:Decrypt and kms:GenerateDataKey. Empty for SQS's own key."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:kms:.+)?$", var.queue_key_arn))
    error_message = "queue_key_arn must be the ARN of a KMS key, or empty."
  }
}

variable "log_key_arn" {
  description = "The customer managed KMS key of the three log groups. Its policy has to allow the service logs.<Region>.amazonaws.com to use it; the project's README shows the statement. Empty for the key of CloudWatch Logs."
  type        = string
  default     = ""
  nullable    = false

  validation {
    condition     = can(regex("^(arn:[^:]+:kms:.+)?$", var.log_key_arn))
    error_message = "log_key_arn must be the ARN of a KMS key, or empty."
  }
}
