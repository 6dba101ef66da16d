/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Metrics over HTTP: /metrics in the text format of Prometheus, /healthz, and at / a status page
 * that lives on /status.json. See docs/metrics.md for what is told, docs/watch.md for the page.
 *
 * Each address has one thread of libmicrohttpd, apart from the reactors: a scrape costs them
 * nothing but loads of their counters, and a client that is slow keeps nobody waiting.
 */
#pragma once

#include "base/reason.h"
#include "control/appliance.h"

#define EXPORTER_LISTEN_MAX 8

struct exporter;

/**
 * Listens where the declaration that @app was started with says; nowhere: *@ret_exporter is NULL.
 * Blocks for an instant. Errors name the address: those of bind(2), -E2BIG for too many of them,
 * -ENOMEM.
 */
int exporter_start(struct appliance *app, struct exporter **ret_exporter, struct reason *why);
/** Before @app stops. Clients are cut off. NULL is fine. */
void exporter_stop(struct exporter *e);
/** The i-th address to paste, "http://1.2.3.4:9810/metrics" or "unix:PATH"; NULL past the end. */
const char *exporter_url(const struct exporter *e, unsigned i);
