#!/usr/bin/env bash
# Make the identity that pipelines sign in to Azure with, and give it the roles that it needs.
#
# `make azure-setup` looks at what is there (with az, as whoever is signed in), prints every command
# that it will run, and asks. What exists is kept, so it may run again at any time.
#
#   SUBSCRIPTION_ID RESOURCE_GROUP_NAME WORKSPACE_NAME   the workspace; from the environment or .env
#   KEY_VAULT_NAME         the vault (default: the workspace's own)
#   PLAN=1                 stop after the plan
#   YES=1                  do not ask
#   AUTH=github            a federated credential for GitHub, without any secret
#       GITHUB_REPOSITORY  owner/name as GitHub spells it (default: from the remote `origin`)
#       ENV=dev            the GitHub environment that may sign in
#       BRANCH             a branch instead of an environment
#       OIDC_SUBJECT       the whole subject (default: as GitHub answers gh, if gh is there; newer
#                          repositories have ids in it, and an organisation may choose its form)
#   AUTH=devops            a federated credential for a service connection of Azure DevOps
#       OIDC_ISSUER OIDC_SUBJECT   as the draft of the service connection shows them
#   AUTH=secret            a client secret, shown nowhere: GitHub's secret AZURE_CREDENTIALS
#   APP_NAME               the app registration (default: llmops-WORKSPACE_NAME)
#   USER_MANAGED_ID        an identity for endpoints, with its roles: a name in the resource group, or
#                          the ARM id of one that exists. Deploying then needs no right to give roles.
#   SEARCH_ENDPOINT        the search service, where experiment.yaml has `search` (default: its address there)
#   COMPUTE_NAME COMPUTE_SIZE   a compute instance (default size: Standard_E4s_v3)
set -euo pipefail

SETTINGS="SUBSCRIPTION_ID RESOURCE_GROUP_NAME WORKSPACE_NAME KEY_VAULT_NAME AUTH GITHUB_REPOSITORY
  ENV BRANCH OIDC_ISSUER OIDC_SUBJECT APP_NAME USER_MANAGED_ID SEARCH_ENDPOINT COMPUTE_NAME
  COMPUTE_SIZE"

# Built-in roles; an id is the same in every tenant and stays when the role is renamed.
DATA_SCIENTIST=f6c7c914-8db3-469d-8ca1-694a8f32e121
ROLE_ADMINISTRATOR=f58310d9-a9f6-439a-9e8d-f62e7b41a168
READER=acdd72a7-3385-48ef-bd42-f606fba81ae7
VAULT_CONTRIBUTOR=f25e0fa2-a7c8-4377-a976-54943a77e395
IDENTITY_OPERATOR=f1a07417-d97a-45cb-824c-7a7467783830
SEARCH_CONTRIBUTOR=7ca78c08-252a-4471-8644-bb5ff32d4ba0
INDEX_CONTRIBUTOR=8ebe5a00-799e-43f5-93ac-243d3dce84a7
# What an endpoint's identity needs, as in llmops/azure/roles.py and search_access.py.
INDEX_READER=1407120a-92aa-4202-b7e9-c0e197c71c8f
CONNECTIONS=ea01e6af-a1c1-4350-9563-ad00f8c72ec5
VAULT_SECRETS=4633458b-17de-408a-b874-0445c86b69e6
METRICS=635dd51f-9968-44d3-b7fb-6d9a6bd613ae
PULL=7f951dda-4ed3-4680-a7ca-43fe172d538d
BLOBS=2a2b9908-6ea1-4ae2-8e65-a410df84e7d1

CREDENTIAL="AZURE_CREDENTIALS in GitHub"
PAUSE_S=${PAUSE_S:-5} # between tries, while Entra does not know everywhere what was just made

# The plan: for each command why it is needed, what its answer is (@app, @principal, @identity or -),
# the number of its words, and the words. In later words those three stand for the answers.
plan=()
kept=()
notes=()
app="" principal="" identity="" search=""

fail() {
  printf 'azure-setup: %s\n' "$*" >&2
  exit 1
}

# --- settings

from_file() { # the value of a name in .env; the last line wins
  [[ -f .env ]] || return 0
  sed -n "s/^[[:space:]]*\(export[[:space:]]\{1,\}\)\{0,1\}$1[[:space:]]*=[[:space:]]*//p" .env |
    tail -n 1 | sed "s/[[:space:]]*\$//; s/^\"\(.*\)\"\$/\1/; s/^'\(.*\)'\$/\1/"
}

read_settings() {
  local name value missing=""
  for name in $SETTINGS; do
    value=${!name:-}
    [[ -n $value ]] || value=$(from_file "$name")
    # They become part of queries and of JSON.
    case $value in *[\'\"\\\`\|]* | *[[:cntrl:]]* | @*)
      fail "$name: has a quote, a backslash, a bar, a leading @ or a control character in it."
      ;;
    esac
    printf -v "$name" '%s' "$value"
  done
  for name in SUBSCRIPTION_ID RESOURCE_GROUP_NAME WORKSPACE_NAME; do
    [[ -n ${!name} ]] || missing="$missing${missing:+, }$name"
  done
  [[ -z $missing ]] || fail "$missing: unset. Name the workspace in the environment or .env."
  AUTH=${AUTH:-github} ENV=${ENV:-dev} APP_NAME=${APP_NAME:-llmops-$WORKSPACE_NAME}
  COMPUTE_SIZE=${COMPUTE_SIZE:-Standard_E4s_v3}
  group=/subscriptions/$SUBSCRIPTION_ID/resourceGroups/$RESOURCE_GROUP_NAME
  workspace=$group/providers/Microsoft.MachineLearningServices/workspaces/$WORKSPACE_NAME
}

read_repository() {
  local remote
  if [[ -z $GITHUB_REPOSITORY ]]; then
    remote=$(git remote get-url origin 2>/dev/null || true)
    [[ $remote =~ github\.com[:/]([A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+) ]] ||
      fail "GITHUB_REPOSITORY: unset, and the remote 'origin' is not on GitHub. Set it to owner/name."
    GITHUB_REPOSITORY=${BASH_REMATCH[1]%.git}
  fi
  [[ $GITHUB_REPOSITORY == ?*/?* ]] || fail "GITHUB_REPOSITORY: '$GITHUB_REPOSITORY' (expected owner/name)."
}

read_subject() { # GitHub's word on how its tokens name this repository, then what may sign in
  local form="" prefix=repo:$GITHUB_REPOSITORY
  if command -v gh >/dev/null; then
    # shellcheck disable=SC2016 # an expression of jq
    form=$(gh api "repos/$GITHUB_REPOSITORY/actions/oidc/customization/sub" \
      --jq '"\(.use_default) \(.sub_claim_prefix // "")"' 2>/dev/null || true)
  fi
  case $form in
    "true repo:"*) prefix=${form#true } ;;
    true*) ;;
    false*) fail "OIDC_SUBJECT: unset, and $GITHUB_REPOSITORY has a subject of its own form. Set it." ;;
    *)
      notes+=("gh did not tell the subject of $GITHUB_REPOSITORY. If sign-in is refused (AADSTS700213), its message names the subject: set it as OIDC_SUBJECT and run this again.")
      ;;
  esac
  OIDC_SUBJECT=$prefix:$1
}

read_sign_in() { # who may sign in: repository, issuer and subject
  case $AUTH in
    github)
      OIDC_ISSUER=https://token.actions.githubusercontent.com
      read_repository
      local who=environment:$ENV
      [[ -z $BRANCH ]] || who=ref:refs/heads/$BRANCH
      [[ -n $OIDC_SUBJECT ]] || read_subject "$who"
      ;;
    devops)
      [[ -n $OIDC_ISSUER && -n $OIDC_SUBJECT ]] ||
        fail "OIDC_ISSUER and OIDC_SUBJECT: set both as the draft of the service connection shows them."
      ;;
    secret)
      read_repository
      command -v gh >/dev/null ||
        fail "gh: not found. AUTH=secret stores the secret with it; or use AUTH=github, without secret."
      ;;
    *) fail "AUTH: '$AUTH' (expected one of github, devops, secret)." ;;
  esac
}

# --- looking; nothing here changes anything

look() { # what az answers, as text
  local answer
  answer=$(az "$@" --output tsv --only-show-errors) || fail "stopped: az $1 $2 was refused, see above. Nothing was changed."
  printf '%s' "$answer"
}

look_around() {
  command -v az >/dev/null || fail "az: not found. Install the Azure CLI, then run \`az login\`."
  tenant=$(az account show --subscription "$SUBSCRIPTION_ID" --query tenantId --output tsv) ||
    fail "not signed in, or not to this subscription. Run \`az login\`, and check SUBSCRIPTION_ID."
  local own
  own=$(look resource show --ids "$workspace" --api-version 2024-10-01 --query \
    "join('|', [properties.keyVault || '', properties.containerRegistry || '', properties.storageAccount || ''])")
  IFS='|' read -r vault registry storage < <(printf '%s\n' "$own")
  if [[ -n $KEY_VAULT_NAME && ${vault##*/} != "$KEY_VAULT_NAME" ]]; then
    vault=$group/providers/Microsoft.KeyVault/vaults/$KEY_VAULT_NAME
  fi
  [[ -n $vault ]] || fail "$WORKSPACE_NAME: has no key vault. Set KEY_VAULT_NAME."
  local vault_group=${vault#*/resourceGroups/}
  vault_group=${vault_group%%/*}
  # Anything but true: access policies decide, and roles on secrets are ignored.
  vault_has_roles=$(look keyvault show --name "${vault##*/}" --resource-group "$vault_group" \
    --subscription "$SUBSCRIPTION_ID" --query "properties.enableRbacAuthorization || \`false\`")
}

look_for_search() { # the service that holds the index, if experiment.yaml or SEARCH_ENDPOINT names one
  local name
  if [[ -z $SEARCH_ENDPOINT && -f experiment.yaml ]]; then
    SEARCH_ENDPOINT=$(sed -n 's|^ *[^#]*\(https://[a-z0-9-]*\.search\.windows\.net\).*|\1|p' experiment.yaml | tail -n 1)
    if [[ -z $SEARCH_ENDPOINT ]] && grep -Eq '^[[:space:]]+search:' experiment.yaml; then
      notes+=("experiment.yaml has a search service. Set SEARCH_ENDPOINT and run this again for its roles.")
    fi
  fi
  [[ -n $SEARCH_ENDPOINT ]] || return 0
  name=${SEARCH_ENDPOINT#https://}
  name=${name%%.*}
  search=$(look resource list --resource-type Microsoft.Search/searchServices --name "$name" \
    --subscription "$SUBSCRIPTION_ID" --query "[].id")
  [[ -n $search ]] || fail "SEARCH_ENDPOINT: there is no search service '$name' in the subscription. Create it with --auth-options aadOrApiKey, or correct the name."
}

# --- planning

step() { # why, what the answer is, the command
  plan+=("$1" "$2" "$(($# - 2))" "${@:3}")
}

plan_application() {
  app=$(look ad app list --display-name "$APP_NAME" --query "[?displayName=='$APP_NAME'].appId")
  [[ $app != *[[:space:]]* ]] || fail "APP_NAME: several app registrations are named '$APP_NAME'. Set another."
  if [[ -n $app ]]; then
    kept+=("app registration $APP_NAME ($app)")
    principal=$(look ad sp list --filter "appId eq '$app'" --query "[].id")
  else
    step "the app registration" @app az ad app create --display-name "$APP_NAME" \
      --sign-in-audience AzureADMyOrg --query appId
  fi
  if [[ -n $principal ]]; then
    kept+=("its service principal ($principal)")
  else
    step "its service principal, which holds the roles" @principal az ad sp create \
      --id "${app:-@app}" --query id
  fi
}

plan_federation() {
  local found="" name
  if [[ -n $app ]]; then
    found=$(look ad app federated-credential list --id "$app" \
      --query "[?issuer=='$OIDC_ISSUER' && subject=='$OIDC_SUBJECT'].name")
  fi
  if [[ -n $found ]]; then
    kept+=("federated credential for $OIDC_SUBJECT")
    return
  fi
  name=$AUTH-$(printf '%s|%s' "$OIDC_ISSUER" "$OIDC_SUBJECT" | cksum | cut -d ' ' -f 1)
  step "sign-in without a secret, for $OIDC_SUBJECT alone" - az ad app federated-credential create \
    --id "${app:-@app}" --parameters "{\"name\": \"$name\", \"issuer\": \"$OIDC_ISSUER\",\
 \"subject\": \"$OIDC_SUBJECT\", \"audiences\": [\"api://AzureADTokenExchange\"]}"
}

plan_secret() {
  local found="" stored
  stored=$(gh secret list --repo "$GITHUB_REPOSITORY" --json name --jq '.[].name') ||
    fail "gh: cannot list the secrets of $GITHUB_REPOSITORY, see above. Run \`gh auth login\`."
  if [[ -n $app ]]; then
    found=$(look ad app credential list --id "$app" --query "[?displayName=='$CREDENTIAL'].keyId")
  fi
  if [[ -n $found && $'\n'$stored$'\n' == *$'\n'AZURE_CREDENTIALS$'\n'* ]]; then
    kept+=("client secret, stored as AZURE_CREDENTIALS")
    return
  fi
  step "a client secret for a year; it goes straight to: gh secret set AZURE_CREDENTIALS --repo $GITHUB_REPOSITORY" \
    @secret az ad app credential reset --id "${app:-@app}" --append --years 1 \
    --display-name "$CREDENTIAL" --query password
}

plan_identity() {
  [[ -n $USER_MANAGED_ID ]] || return 0
  identity_id=$USER_MANAGED_ID
  if [[ $USER_MANAGED_ID == /* ]]; then
    identity=$(look identity show --ids "$USER_MANAGED_ID" --query principalId)
  else
    identity_id=$group/providers/Microsoft.ManagedIdentity/userAssignedIdentities/$USER_MANAGED_ID
    identity=$(look identity list --resource-group "$RESOURCE_GROUP_NAME" \
      --subscription "$SUBSCRIPTION_ID" --query "[?name=='$USER_MANAGED_ID'].principalId")
  fi
  if [[ -n $identity ]]; then
    kept+=("identity ${identity_id##*/} ($identity)")
    return
  fi
  step "the identity of the endpoints" @identity az identity create --name "$USER_MANAGED_ID" \
    --resource-group "$RESOURCE_GROUP_NAME" --subscription "$SUBSCRIPTION_ID" --query principalId
}

role() { # whose (an object id or @name), role, its id, scope, why, more words for the command
  local found="" what="'$2' on ${4##*/}"
  if [[ $1 != @* ]]; then
    found=$(look role assignment list --assignee "$1" --scope "$4" --include-inherited \
      --subscription "$SUBSCRIPTION_ID" --query "[?ends_with(roleDefinitionId, '$3')].id")
  fi
  if [[ -n $found ]]; then
    kept+=("role $what, to $5")
    return
  fi
  step "role $what, to $5" - az role assignment create --role "$3" --assignee-object-id "$1" \
    --assignee-principal-type ServicePrincipal --scope "$4" --subscription "$SUBSCRIPTION_ID" "${@:6}"
}

role_administrator() { # scope, the one role that may be given and taken there, and to whom
  local attribute="Microsoft.Authorization/roleAssignments"
  local condition="((!(ActionMatches{'$attribute/write'})) OR (\
@Request[$attribute:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {$2} AND \
@Request[$attribute:PrincipalType] ForAnyOfAnyValues:StringEqualsIgnoreCase {'ServicePrincipal'}))\
 AND ((!(ActionMatches{'$attribute/delete'})) OR (\
@Resource[$attribute:RoleDefinitionId] ForAnyOfAnyValues:GuidEquals {$2} AND \
@Resource[$attribute:PrincipalType] ForAnyOfAnyValues:StringEqualsIgnoreCase {'ServicePrincipal'}))"
  role "${principal:-@principal}" "Role Based Access Control Administrator" "$ROLE_ADMINISTRATOR" \
    "$1" "give endpoints their one role there, and no other role" \
    --condition "$condition" --condition-version 2.0
}

plan_pipeline_roles() {
  local who=${principal:-@principal} scope
  role "$who" "AzureML Data Scientist" "$DATA_SCIENTIST" "$workspace" "register, run and deploy"
  if [[ -n $search ]]; then
    role "$who" "Search Service Contributor" "$SEARCH_CONTRIBUTOR" "$search" "make indexes"
    role "$who" "Search Index Data Contributor" "$INDEX_CONTRIBUTOR" "$search" "fill and ask them"
  fi
  if [[ -n $USER_MANAGED_ID ]]; then
    role "$who" "Managed Identity Operator" "$IDENTITY_OPERATOR" "$identity_id" "put it on endpoints"
    for scope in "$workspace" "$vault" $registry $storage; do
      role "$who" "Reader" "$READER" "$scope" "see that the identity has its roles"
    done
    return
  fi
  role_administrator "$workspace" "$CONNECTIONS"
  [[ -z $search ]] || role_administrator "$search" "$INDEX_READER"
  if [[ $vault_has_roles == true ]]; then
    role_administrator "$vault" "$VAULT_SECRETS"
  else
    role "$who" "Key Vault Contributor" "$VAULT_CONTRIBUTOR" "$vault" \
      "let endpoints read secrets (this vault has access policies)"
  fi
}

plan_vault_policy() {
  local found="" name=${vault##*/}
  if [[ -n $identity ]]; then
    found=$(look keyvault show --name "$name" --subscription "$SUBSCRIPTION_ID" \
      --query "properties.accessPolicies[?objectId=='$identity'].permissions.secrets[]")
  fi
  # The portal writes Get where az writes get.
  found=$(printf '%s\n' "$found" | tr '[:upper:]' '[:lower:]' | sort)
  case $'\n'$found$'\n' in *$'\n'all$'\n'* | *$'\n'get$'\n'*list$'\n'*)
    kept+=("access policy of $name, to read secrets")
    return
    ;;
  esac
  step "access policy of $name, to read secrets" - az keyvault set-policy --name "$name" \
    --subscription "$SUBSCRIPTION_ID" --object-id "${identity:-@identity}" \
    --secret-permissions get list
}

plan_identity_roles() {
  [[ -n $USER_MANAGED_ID ]] || return 0
  local who=${identity:-@identity}
  role "$who" "Azure Machine Learning Workspace Connection Secrets Reader" "$CONNECTIONS" \
    "$workspace" "read the flow's connections"
  role "$who" "AzureML Metrics Writer (preview)" "$METRICS" "$workspace" "write metrics"
  if [[ $vault_has_roles == true ]]; then
    role "$who" "Key Vault Secrets User" "$VAULT_SECRETS" "$vault" "read secrets"
  else
    plan_vault_policy
  fi
  if [[ -n $registry ]]; then
    role "$who" "AcrPull" "$PULL" "$registry" "pull the image"
  else
    notes+=("$WORKSPACE_NAME has no container registry yet: run this again once it has one.")
  fi
  if [[ -n $search ]]; then
    role "$who" "Search Index Data Reader" "$INDEX_READER" "$search" "search the flow's documents"
  fi
  if [[ -n $storage ]]; then
    role "$who" "Storage Blob Data Reader" "$BLOBS" "$storage" "read the model"
  fi
}

plan_compute() {
  [[ -n $COMPUTE_NAME ]] || return 0
  local found place=(--resource-group "$RESOURCE_GROUP_NAME" --workspace-name "$WORKSPACE_NAME")
  place+=(--subscription "$SUBSCRIPTION_ID")
  [[ -n $(look extension list --query "[?name=='ml'].name") ]] ||
    fail "COMPUTE_NAME: needs the extension ml. Run \`az extension add --name ml\`."
  found=$(look ml compute list "${place[@]}" --query "[?name=='$COMPUTE_NAME'].name")
  if [[ -n $found ]]; then
    kept+=("compute $COMPUTE_NAME")
    return
  fi
  [[ -z $USER_MANAGED_ID ]] || place+=(--identity-type UserAssigned --user-assigned-identities "$identity_id")
  step "a compute instance; it costs money while it runs" - az ml compute create \
    --name "$COMPUTE_NAME" --type ComputeInstance --size "$COMPUTE_SIZE" "${place[@]}"
}

# --- showing, asking, doing

shown() { # a command as one would type it
  local word line=""
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]] || word="'${word//\'/\'\\\'\'}'"
    line="$line $word"
  done
  printf '%s' "${line# }"
}

each() { # call a function with each step of the plan
  local at=0 count
  while ((at < ${#plan[@]})); do
    count=${plan[at + 2]}
    "$1" "${plan[@]:at:2}" "${plan[@]:at+3:count}"
    at=$((at + 3 + count))
  done
}

show_step() {
  printf '\n# %s\n%s\n' "$1" "$(shown "${@:3}")"
}

show_plan() {
  local line
  printf 'In %s, workspace %s, as who is signed in:\n' "$RESOURCE_GROUP_NAME" "$WORKSPACE_NAME"
  for line in ${kept[@]+"${kept[@]}"}; do printf 'found: %s\n' "$line"; done
  for line in ${notes[@]+"${notes[@]}"}; do printf 'note: %s\n' "$line"; done
  each show_step
  if ((${#plan[@]})); then
    printf '\n@app, @principal and @identity stand for the ids that earlier commands answer.\n'
  else
    printf 'Nothing to do: all of it is there.\n'
  fi
}

agree() {
  [[ ${YES:-} != 1 ]] || return 0
  [[ -t 0 ]] || fail "nobody to ask. Set YES=1 to run these commands; nothing was changed."
  local answer=""
  read -r -p "Run these commands? [y/N] " answer || true
  [[ $answer == [yY] || $answer == [yY][eE][sS] ]] || fail "nothing was changed."
}

patiently() { # what a command answers; again while Entra does not know what was just made
  local tries=0 answer problem
  problem=$(mktemp)
  until answer=$("$@" --output tsv --only-show-errors 2>"$problem"); do
    tries=$((tries + 1))
    if ((tries > 5)) || ! grep -Eq 'PrincipalNotFound|valid application|Request_ResourceNotFound' "$problem"; then
      cat "$problem" >&2
      rm -f "$problem"
      fail "stopped: $1 $2 $3 $4 was refused. What was made stays; run this again to go on."
    fi
    sleep "$PAUSE_S"
  done
  rm -f "$problem"
  printf '%s' "$answer"
}

store() { # a client secret, from az to gh: never on the screen, nor among the words of a command
  set +x
  case $1 in "" | *[\"\\]*) fail "az answered no secret that fits into JSON. Run this again." ;; esac
  printf '{"clientId": "%s", "clientSecret": "%s", "subscriptionId": "%s", "tenantId": "%s"}' \
    "$app" "$1" "$SUBSCRIPTION_ID" "$tenant" |
    gh secret set AZURE_CREDENTIALS --repo "$GITHUB_REPOSITORY" >/dev/null ||
    fail "gh could not store the secret, see above. Delete '$CREDENTIAL' of $APP_NAME in Entra ID, and run this again."
}

run_step() {
  local word words=() answer
  printf -- '- %s\n' "$1"
  for word in "${@:3}"; do
    case $word in
      @app) word=$app ;;
      @principal) word=$principal ;;
      @identity) word=$identity ;;
    esac
    words+=("$word")
  done
  answer=$(patiently "${words[@]}")
  case $2 in
    @app) app=$answer ;;
    @principal) principal=$answer ;;
    @identity) identity=$answer ;;
    @secret) store "$answer" ;;
  esac
}

show_variables() {
  local name
  case $AUTH in
    github)
      local of="environment $ENV"
      [[ -z $BRANCH ]] || of=repository
      printf '\nDone. In GitHub, variables of the %s (none is a secret):\n' "$of"
      ;;
    devops) printf '\nDone. Finish the service connection with the first two; the rest are pipeline variables:\n' ;;
    secret) printf '\nDone. AZURE_CREDENTIALS is stored. In GitHub, variables of the repository:\n' ;;
  esac
  printf '  AZURE_CLIENT_ID=%s\n  AZURE_TENANT_ID=%s\n' "$app" "$tenant"
  KEY_VAULT_NAME=${vault##*/}
  for name in SUBSCRIPTION_ID RESOURCE_GROUP_NAME WORKSPACE_NAME KEY_VAULT_NAME; do
    printf '  %s=%s\n' "$name" "${!name}"
  done
  [[ -z $search ]] || printf '  SEARCH_ENDPOINT=%s\n' "$SEARCH_ENDPOINT"
  [[ -z $USER_MANAGED_ID ]] || printf 'USER_MANAGED_ID in configs/deployment_config.json: %s\n' "$USER_MANAGED_ID"
  printf 'A role can take up to 15 minutes to take effect.\n'
}

main() {
  read_settings
  read_sign_in
  look_around
  look_for_search
  plan_application
  if [[ $AUTH == secret ]]; then plan_secret; else plan_federation; fi
  plan_identity
  plan_pipeline_roles
  plan_identity_roles
  plan_compute
  show_plan
  [[ ${PLAN:-} != 1 && ${PLAN:-} != true ]] || return 0
  if ((${#plan[@]})); then agree; fi
  each run_step
  show_variables
}

main "$@"
