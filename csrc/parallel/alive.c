/* A thread that answers whether this process lives. It needs no lock of the program's, so that it
 * answers for a process that is busy in whatever call; a stopped process gives no answer. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "dn_api.h"

enum { TOKEN = 16, NONCE = 8 };

typedef struct {
    int socket;
    unsigned char token[TOKEN];
} answering;

static void *answer(void *arg) {
    answering *a = arg;
    for (;;) {
        unsigned char question[TOKEN + NONCE + 1];
        struct sockaddr_storage from;
        socklen_t length = sizeof from;
        ssize_t n =
            recvfrom(a->socket, question, sizeof question, 0, (struct sockaddr *)&from, &length);
        if (n < 0 && errno != EINTR && errno != ECONNREFUSED && errno != EAGAIN) break;
        if (n == TOKEN + NONCE && !memcmp(question, a->token, TOKEN))
            (void)!sendto(a->socket, question, (size_t)n, MSG_DONTWAIT, (struct sockaddr *)&from,
                          length);
    }
    close(a->socket);
    free(a);
    return NULL;
}

int dn_answer_alive(int socket, const char *token) {
    answering *a = malloc(sizeof *a);
    pthread_t thread;
    sigset_t all, before;
    if (!a) return close(socket), ENOMEM;
    a->socket = socket;
    memcpy(a->token, token, TOKEN);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's threads */
    int failure = pthread_create(&thread, NULL, answer, a);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failure) free(a), close(socket);
    else pthread_detach(thread);
    return failure;
}
