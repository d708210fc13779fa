// Deadlines and retries of every method. Written by scripts/service-config.mjs from docs/service-config.json; never edited.
import type { ServiceConfig } from "./policy.js";

export const serviceConfig: ServiceConfig = {
  "methodConfig": [
    {
      "name": [
        {
          "service": "skilder.keys.v1.AuthorizationService",
          "method": "Authorize"
        }
      ],
      "timeout": "2s",
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.05s",
        "maxBackoff": "0.5s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": [
          "UNAVAILABLE"
        ]
      }
    },
    {
      "name": [
        {
          "service": "skilder.keys.v1.AuthorizationService",
          "method": "BatchAuthorize"
        },
        {
          "service": "skilder.keys.v1.AuthorizationService",
          "method": "ReadToolSet"
        },
        {
          "service": "skilder.keys.v1.ActivityService",
          "method": "ListActivity"
        },
        {
          "service": "skilder.keys.v1.ActivityService",
          "method": "GetUsage"
        },
        {
          "service": "skilder.keys.v1.AuditService",
          "method": "ListEvents"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "GetWorkspace"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "ListWorkspaces"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "ListMembers"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "ListHats"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "ListTools"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "ListKeys"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "CountKeys"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "ExplainKey"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "ListToolUsers"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "GetKey"
        }
      ],
      "timeout": "10s",
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": [
          "UNAVAILABLE"
        ]
      }
    },
    {
      "name": [
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "ApplyWorkspace"
        },
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "UpdateWorkspace"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "IssueKey"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "RotateKey"
        },
        {
          "service": "skilder.keys.v1.RuntimeService",
          "method": "RotateOwnKey"
        }
      ],
      "timeout": "20s"
    },
    {
      "name": [
        {
          "service": "skilder.keys.v1.CatalogService",
          "method": "DeleteWorkspace"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "RevokeKey"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "UpdateKey"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "RevokeKeys"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "SuspendKey"
        },
        {
          "service": "skilder.keys.v1.KeyService",
          "method": "ResumeKey"
        }
      ],
      "timeout": "20s",
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": [
          "UNAVAILABLE"
        ]
      }
    },
    {
      "name": [
        {
          "service": "skilder.keys.v1.AuditService",
          "method": "FollowEvents"
        }
      ],
      "timeout": "120s",
      "retryPolicy": {
        "maxAttempts": 4,
        "initialBackoff": "0.1s",
        "maxBackoff": "2s",
        "backoffMultiplier": 3,
        "retryableStatusCodes": [
          "UNAVAILABLE"
        ]
      }
    }
  ],
  "retryThrottling": {
    "maxTokens": 100,
    "tokenRatio": 0.1
  }
};
